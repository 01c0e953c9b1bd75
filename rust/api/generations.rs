//! The routes of guest generations.

use super::{
    control::Change,
    server::{Answer, Api, LogParams, Params, Shared, body, machine, params, text},
    types::{GenerationList, RollbackRequest},
};
use crate::error::{Kind, Report};
use axum::{
    Json, Router,
    body::Bytes,
    extract::{Path, State, rejection::BytesRejection},
    response::Response,
    routing::{delete, get, post},
};
use std::sync::Arc;

type Done = Answer<Json<serde_json::Value>>;

pub(super) fn routes() -> Router<Arc<Api>> {
    Router::new()
        .route("/v1/machines/{name}/generations", get(list))
        .route("/v1/machines/{name}/generations/rollback", post(roll_back))
        .route("/v1/machines/{name}/generations/build", post(build))
        .route("/v1/machines/{name}/generations/{number}", delete(forget))
        .route("/v1/machines/{name}/build-log", get(build_log))
}

async fn list(State(api): Shared, Path(name): Path<String>) -> Answer<Json<GenerationList>> {
    Ok(Json(api.control.generations(&machine(&name)?)?))
}

async fn roll_back(State(api): Shared, Path(name): Path<String>, bytes: Result<Bytes, BytesRejection>) -> Done {
    let RollbackRequest { to } = body(bytes)?;
    done(&api, &name, Change::RollBack(to))
}

async fn build(State(api): Shared, Path(name): Path<String>) -> Done {
    done(&api, &name, Change::Build)
}

async fn forget(State(api): Shared, Path((name, number)): Path<(String, String)>) -> Done {
    let unknown = |_| Report::new(Kind::NotFound, format!("{number:?} is no number of a generation"));
    done(&api, &name, Change::Delete(number.parse().map_err(unknown)?))
}

fn done(api: &Api, name: &str, change: Change) -> Done {
    api.control.change_generations(&machine(name)?, change)?;
    Ok(Json(serde_json::json!({})))
}

async fn build_log(State(api): Shared, Path(name): Path<String>, query: Params<LogParams>) -> Answer<Response> {
    let file = api.control.build_log(&machine(&name)?)?;
    Ok(text(&api, file, &params(query)?))
}
