//! Request headers, over all their lines: a header may have several lines, and a list header may have all its items in
//! one line or spread over several (RFC 9110, section 5.3).

use super::refusal::{Answer, Refusal};
use axum::{
    body::HttpBody,
    extract::Request,
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version, header},
};
use dvn_types::{Kind, Report, wire::UPGRADE};

/// The items of a list header, from all its lines. A line that is not text contributes none.
pub(super) fn items(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = &str> {
    let lines = headers.get_all(name).into_iter().filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(',')).map(str::trim).filter(|item| !item.is_empty())
}

/// Whether that list contains this item, ignoring case.
pub(super) fn lists(headers: &HeaderMap, name: HeaderName, item: &str) -> bool {
    items(headers, name).any(|found| found.eq_ignore_ascii_case(item))
}

/// Refuses a request that does not request a byte stream.
pub(super) fn asks_for_a_stream(request: &Request) -> Answer<()> {
    if request.method() != Method::GET {
        let what = format!("{} does not take {}", request.uri().path(), request.method());
        let report = Report::new(Kind::Config, what).hint("ask for a stream with GET");
        return Err(Refusal::new(StatusCode::METHOD_NOT_ALLOWED, report));
    }
    let headers = request.headers();
    let asked = lists(headers, header::CONNECTION, "upgrade") && lists(headers, header::UPGRADE, UPGRADE);
    // A server must ignore Upgrade in HTTP/1.0.
    if !asked || request.version() != Version::HTTP_11 {
        let report = Report::new(Kind::Config, "this path is a byte stream, and the request did not ask for one");
        let report = report.hint(format!("send the headers Connection: upgrade and Upgrade: {UPGRADE}, in HTTP/1.1"));
        let refusal = Refusal::new(StatusCode::UPGRADE_REQUIRED, report);
        return Err(refusal
            .with(header::UPGRADE, HeaderValue::from_static(UPGRADE))
            .with(header::CONNECTION, HeaderValue::from_static("upgrade")));
    }
    if !request.body().is_end_stream() {
        // It would have to be read before the stream begins.
        let report = Report::new(Kind::Config, "a request for a byte stream has no body, and this one has");
        return Err(Refusal::new(StatusCode::BAD_REQUEST, report.hint("send the bytes after the answer 101")).closing());
    }
    Ok(())
}

/// Refuses a body that is not plain JSON: of another type, compressed, or in another transfer coding.
pub(super) fn announce_json(headers: &HeaderMap) -> Answer<()> {
    let refused =
        |status, what: String, hint: &str| Err(Refusal::new(status, Report::new(Kind::Config, what).hint(hint)));
    let types: Vec<_> = headers.get_all(header::CONTENT_TYPE).iter().collect();
    if types.len() > 1 || !types.iter().all(|kind| is_json(kind)) {
        let what = format!("the body's type is {}, and must be JSON", quoted(&types));
        return refused(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            what,
            "send the header Content-Type: application/json, once",
        );
    }
    let packed = |coding: &str| !coding.eq_ignore_ascii_case("identity");
    if let Some(coding) = items(headers, header::CONTENT_ENCODING).find(|coding| packed(coding)) {
        let what = format!("the body is encoded as {coding:?}, and must not be encoded");
        return refused(StatusCode::UNSUPPORTED_MEDIA_TYPE, what, "leave the header Content-Encoding out");
    }
    if let Some(coding) = items(headers, header::TRANSFER_ENCODING).find(|item| !item.eq_ignore_ascii_case("chunked")) {
        let what = format!("the body has the transfer coding {coding:?}, which the API does not support");
        return refused(StatusCode::NOT_IMPLEMENTED, what, "send it with a Content-Length, or chunked");
    }
    Ok(())
}

fn quoted(values: &[&HeaderValue]) -> String {
    values.iter().map(|value| format!("{value:?}")).collect::<Vec<_>>().join(" and ")
}

fn is_json(kind: &HeaderValue) -> bool {
    let essence = kind.to_str().unwrap_or_default().split(';').next().unwrap_or_default();
    essence.trim().eq_ignore_ascii_case("application/json")
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::Body;

    #[test]
    fn a_stream_is_asked_for_by_both_headers_in_whatever_lines_and_letters() {
        let ours = "darwin-vz-stream";
        for (connection, upgrade, asked) in [
            (&["upgrade"][..], &[ours][..], true),
            (&["Upgrade"], &["Darwin-VZ-Stream"], true),
            (&["keep-alive, upgrade"], &[ours], true),
            (&["keep-alive", " ,\tUPGRADE ,"], &[ours], true),
            (&["upgrade"], &["websocket, darwin-vz-stream"], true),
            (&["upgrade"], &["websocket", ours], true),
            (&[], &[ours], false),
            (&["keep-alive"], &[ours], false),
            (&["upgrade"], &[], false),
            (&["upgrade"], &["websocket"], false),
            (&["upgrade"], &["darwin-vz-stream/2"], false),
            (&["upgrade"], &["\"darwin-vz-stream\""], false),
            (&["upgrade"], &["darwin-vz-streams"], false),
            (&["not upgrade"], &[ours], false),
            (&["upgrade;q=1"], &[ours], false),
            (&[ours], &["upgrade"], false),
        ] {
            let mut request = Request::builder();
            for (name, lines) in [(header::CONNECTION, connection), (header::UPGRADE, upgrade)] {
                for line in lines {
                    request = request.header(&name, *line);
                }
            }
            let answer = asks_for_a_stream(&request.body(Body::empty()).unwrap());
            assert_eq!(answer.is_ok(), asked, "{connection:?} {upgrade:?}");
        }
    }

    #[test]
    fn a_stream_is_asked_for_in_its_version_by_get_and_without_a_body() {
        let ask = |method, version, body: &'static str| {
            let request = Request::builder().method(method).version(version);
            let request = request.header(header::CONNECTION, "upgrade").header(header::UPGRADE, UPGRADE);
            asks_for_a_stream(&request.body(Body::from(body)).unwrap()).map_err(|refusal| refusal.status().as_u16())
        };
        assert_eq!(ask(Method::GET, Version::HTTP_11, ""), Ok(()));
        assert_eq!(ask(Method::GET, Version::HTTP_10, ""), Err(426));
        assert_eq!(ask(Method::HEAD, Version::HTTP_11, ""), Err(405));
        assert_eq!(ask(Method::GET, Version::HTTP_11, "early"), Err(400));
    }

    #[test]
    fn a_body_is_what_all_its_headers_say() {
        let json = ("content-type", "application/json");
        for (lines, status) in [
            (&[][..], 0),
            (&[json], 0),
            (&[("content-type", "Application/JSON ; charset=utf-8")], 0),
            (&[json, json], 415),
            (&[json, ("content-type", "text/plain")], 415),
            (&[("content-type", "text/plain")], 415),
            (&[("content-type", "")], 415),
            (&[("content-type", "application/json, text/plain")], 415),
            (&[json, ("content-encoding", "identity")], 0),
            (&[json, ("content-encoding", "gzip")], 415),
            (&[json, ("content-encoding", "identity"), ("content-encoding", "gzip")], 415),
            (&[json, ("transfer-encoding", "chunked")], 0),
            (&[json, ("transfer-encoding", "gzip, chunked")], 501),
            (&[json, ("transfer-encoding", "gzip"), ("transfer-encoding", "chunked")], 501),
        ] {
            let mut headers = HeaderMap::new();
            for (name, value) in lines {
                headers.append(*name, HeaderValue::from_static(value));
            }
            let found = announce_json(&headers).err().map_or(0, |refusal| refusal.status().as_u16());
            assert_eq!(found, status, "{lines:?}");
        }
    }
}
