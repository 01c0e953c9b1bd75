//! An error as the API sends it: a report, an HTTP status that matches its kind, and extra headers if needed.

use axum::{
    Json,
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use dvn_types::{Kind, Report};

/// An error with its HTTP status.
#[derive(Debug)]
pub(super) struct Refusal {
    status: StatusCode,
    report: Report,
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl Refusal {
    /// This report, with this status.
    pub(super) fn new(status: StatusCode, report: Report) -> Refusal {
        Refusal { status, report, headers: Vec::new() }
    }

    /// A limit is reached; the client may try again soon.
    pub(super) fn full(report: Report) -> Refusal {
        Refusal::new(StatusCode::SERVICE_UNAVAILABLE, report).with(header::RETRY_AFTER, HeaderValue::from_static("1"))
    }

    /// Adds this header.
    pub(super) fn with(mut self, name: HeaderName, value: HeaderValue) -> Refusal {
        self.headers.push((name, value));
        self
    }

    /// Closes the connection after this answer.
    pub(super) fn closing(self) -> Refusal {
        self.with(header::CONNECTION, HeaderValue::from_static("close"))
    }

    /// Its status.
    #[cfg(test)]
    pub(super) fn status(&self) -> StatusCode {
        self.status
    }
}

impl From<Report> for Refusal {
    fn from(report: Report) -> Self {
        Refusal::new(status_of(report.kind), report)
    }
}

/// The HTTP status for an error of that kind, unless the request itself is wrong or a limit is reached.
pub fn status_of(kind: Kind) -> StatusCode {
    match kind {
        Kind::Config | Kind::Bundle => StatusCode::UNPROCESSABLE_ENTITY,
        Kind::NotFound => StatusCode::NOT_FOUND,
        Kind::Busy => StatusCode::CONFLICT,
        Kind::Boot | Kind::Guest | Kind::Host | Kind::NotRunning => StatusCode::SERVICE_UNAVAILABLE,
        Kind::State | Kind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.report)).into_response();
        response.headers_mut().extend(self.headers);
        response
    }
}

pub(super) type Answer<T> = Result<T, Refusal>;
