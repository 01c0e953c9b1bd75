//! Extractors for the parts of a request: query, path, and body, which must arrive complete within a time limit.

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

/// Time limit for a body, from the end of the request's head to the body's end.
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

/// A JSON body; without one, the default.
pub(super) struct Given<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned + Default> FromRequest<S> for Given<T> {
    type Rejection = Refusal;

    async fn from_request(request: Request, state: &S) -> Answer<Given<T>> {
        let announced = announce_json(request.headers());
        let Ok(bytes) = timeout(BODY, Bytes::from_request(request, state)).await else {
            let report = Report::new(Kind::Config, format!("the body did not come within {} s", BODY.as_secs()));
            let report = report.hint("send the body at once, with a Content-Length that is not longer");
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
        // Serde accepts a list of values for an object, in the order of its fields, which no client intends.
        if bytes.trim_ascii_start().starts_with(b"[") {
            return Err(
                Report::new(Kind::Config, "the body cannot be read: it is a list, and must be an object").into()
            );
        }
        Ok(Given(given.unwrap_or_default()))
    }
}

/// The machine name in a path.
pub(super) type Name = Result<Path<String>, PathRejection>;

/// A path that cannot be decoded names nothing.
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
