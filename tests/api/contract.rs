//! The API against its own description: schemathesis sends valid and invalid requests, and checks the answers.

use super::common::Server;
use std::{fs, path::Path, process::Command};

/// The checks for every answer.
const CHECKS: &str = "not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance,\
    response_schema_conformance,negative_data_rejection,unsupported_method,allow_header_conformance,ignored_auth";

/// Two routes are left out: events never end, and a shutdown would end the test.
#[test]
fn the_api_is_as_it_describes_itself() {
    let Some(program) = std::env::var_os("DVN_SCHEMATHESIS") else {
        panic!("DVN_SCHEMATHESIS is not set: run this with `make test`, which installs schemathesis")
    };
    let server = Server::on_tcp("127.0.0.1:0");
    let address = server.tcp.unwrap();
    let token = fs::read_to_string(server.path().join("api-token")).unwrap();
    let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/api/schemathesis.toml");
    let output = Command::new(program)
        .arg("--no-color")
        .arg("--config-file")
        .arg(config)
        .args(["run", &format!("http://{address}/v1/openapi.json"), "--phases", "examples,coverage,fuzzing"])
        .args(["--header", &format!("Authorization: Bearer {}", token.trim()), "--checks", CHECKS])
        .args(["--exclude-path", "/v1/events", "--exclude-path", "/v1/shutdown"])
        .current_dir(server.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    let calls = server.calls();
    for verb in ["start", "stop", "pause", "resume", "destroy"] {
        let seen = calls.iter().filter(|call| call.starts_with(&format!("{verb} builder"))).count();
        assert!(seen > 3, "{verb} came through {seen} times: the test has shrunk\n{said}");
    }
}
