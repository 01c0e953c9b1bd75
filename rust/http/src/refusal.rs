//! An error as the API sends it: a report, the HTTP status that says its kind, and headers of its own where it needs some.

use axum::{
    Json,
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use dvn_types::{Kind, Report};

/// An error with the HTTP status it is sent under.
#[derive(Debug)]
pub(super) struct Refusal {
    status: StatusCode,
    report: Report,
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl Refusal {
    /// This report, under this status.
    pub(super) fn new(status: StatusCode, report: Report) -> Refusal {
        Refusal { status, report, headers: Vec::new() }
    }

    /// Too much is under way; it may be tried again soon.
    pub(super) fn full(report: Report) -> Refusal {
        Refusal::new(StatusCode::SERVICE_UNAVAILABLE, report).with(header::RETRY_AFTER, HeaderValue::from_static("1"))
    }

    /// With this header.
    pub(super) fn with(mut self, name: HeaderName, value: HeaderValue) -> Refusal {
        self.headers.push((name, value));
        self
    }

    /// The connection ends with it.
    pub(super) fn closing(self) -> Refusal {
        self.with(header::CONNECTION, HeaderValue::from_static("close"))
    }

    /// The status it is sent under.
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

/// The status under which an error of that kind is sent, unless the request itself is what is wrong, or too many are under way.
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
