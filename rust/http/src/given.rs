//! What a request gives: its query, its path, and its body, which has to come whole within a limited time.

use super::{
    headers::announce_json,
    refusal::{Answer, Refusal},
};
use axum::{
    body::Bytes,
    extract::{FromRequest, Path, Query, Request, rejection::PathRejection, rejection::QueryRejection},
    http::StatusCode,
};
use dvn_types::{Kind, MachineName, Report};
use serde::de::DeserializeOwned;
use std::time::Duration;
use tokio::time::timeout;

/// How long a body may take, from the end of the head to its own end.
const BODY: Duration = Duration::from_secs(10);

pub(super) type Params<T> = Result<Query<T>, QueryRejection>;

pub(super) fn params<T>(query: Params<T>) -> Answer<T> {
    let refused = |error: QueryRejection| {
        Refusal::new(
            StatusCode::BAD_REQUEST,
            Report::new(Kind::Config, format!("the query cannot be read: {}", error.body_text())),
        )
    };
    query.map(|Query(params)| params).map_err(refused)
}

/// A body in JSON; none is the default.
pub(super) struct Given<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned + Default> FromRequest<S> for Given<T> {
    type Rejection = Refusal;

    async fn from_request(request: Request, state: &S) -> Answer<Given<T>> {
        let announced = announce_json(request.headers());
        let Ok(bytes) = timeout(BODY, Bytes::from_request(request, state)).await else {
            let report = Report::new(Kind::Config, format!("the body did not come within {} s", BODY.as_secs()));
            let report = report.hint("send the body at once, and no longer a Content-Length than it has");
            return Err(Refusal::new(StatusCode::REQUEST_TIMEOUT, report).closing());
        };
        let bytes =
            bytes.map_err(|error| Refusal::new(error.status(), Report::new(Kind::Config, error.body_text())))?;
        if bytes.is_empty() {
            return Ok(Given(T::default()));
        }
        announced?;
        let refused = |error| Report::new(Kind::Config, format!("the body cannot be read: {error}"));
        let given: Option<T> = serde_json::from_slice(&bytes).map_err(refused)?;
        // Serde takes a list of values for an object, in the order of the fields, which nobody means.
        if bytes.trim_ascii_start().starts_with(b"[") {
            return Err(
                Report::new(Kind::Config, "the body cannot be read: it is a list, and must be an object").into()
            );
        }
        Ok(Given(given.unwrap_or_default()))
    }
}

/// The part of a path that names a machine.
pub(super) type Name = Result<Path<String>, PathRejection>;

/// What cannot be read as a path names nothing.
pub(super) fn no_path(error: &PathRejection) -> Refusal {
    Report::new(Kind::NotFound, format!("the path cannot be read: {}", error.body_text())).into()
}

pub(super) fn machine(name: Name) -> Answer<MachineName> {
    let Path(name) = name.map_err(|error| no_path(&error))?;
    named(&name)
}

pub(super) fn named(name: &str) -> Answer<MachineName> {
    Ok(name.parse().map_err(|why: String| Report::new(Kind::NotFound, why))?)
}
