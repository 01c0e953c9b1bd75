//! The routes of the library: machines are listed, made, cloned, changed and run.

use super::{
    given::{Given, Name, Params, machine, params},
    library_control::LibraryChange,
    refusal::Answer,
    shared::Shared,
    streams::{GivenSlot, tunnel},
};
use axum::{
    Json,
    extract::{Request, State},
    http::header,
    response::{IntoResponse, Response},
};
use dvn_types::{
    Kind, MachineName, Report,
    wire::{Addresses, CreateRequest, Done, ListRequest, MachineList, NameRequest, RunRequest, SetRequest, Vm},
};
use tokio::task::spawn_blocking;

/// All machines: the builders and those of the library
#[utoipa::path(get, path = "/v1/machines", params(ListRequest),
    responses((status = 200, body = MachineList, description = "As of now.")))]
pub(super) async fn list(State(api): Shared, query: Params<ListRequest>) -> Answer<Json<MachineList>> {
    let ListRequest { space } = params(query)?;
    Ok(Json(off_the_runtime(move || api.control.machines(space)).await?))
}

/// A machine, with the blocks of its disk
#[utoipa::path(get, path = "/v1/machines/{name}", params(("name" = MachineName, Path)),
    responses((status = 200, body = Vm, description = "As of now.")))]
pub(super) async fn show(State(api): Shared, name: Name) -> Answer<Json<Vm>> {
    let name = machine(name)?;
    Ok(Json(off_the_runtime(move || api.control.machine(&name)).await?))
}

/// Make a machine for Linux, with an empty disk
///
/// The name must be free: no machine is ever replaced.
#[utoipa::path(post, path = "/v1/machines", request_body = CreateRequest,
    responses((status = 200, body = Vm, description = "It is made, and does not run.")))]
pub(super) async fn create(State(api): Shared, Given(request): Given<Option<CreateRequest>>) -> Answer<Json<Vm>> {
    let request = request.ok_or_else(|| needed("the name of the new machine"))?;
    check_sizes(request.cores, request.memory, request.disk_size)?;
    Ok(Json(off_the_runtime(move || api.control.change(LibraryChange::Create(request))).await?))
}

/// Make a copy of a machine that does not run
///
/// Where the file system can, the two share the blocks of their disks. The copy has another MAC address, unless the machine is
/// suspended: then the copy is, too, and keeps it.
#[utoipa::path(post, path = "/v1/machines/{name}/clone", params(("name" = MachineName, Path)), request_body = NameRequest,
    responses((status = 200, body = Vm, description = "The copy.")))]
pub(super) async fn clone(
    State(api): Shared,
    name: Name,
    Given(request): Given<Option<NameRequest>>,
) -> Answer<Json<Vm>> {
    let (from, to) = (machine(name)?, request.ok_or_else(|| needed("the name of the copy"))?.name);
    Ok(Json(off_the_runtime(move || api.control.change(LibraryChange::Clone { from, to })).await?))
}

/// Change what a stopped machine of the library is made of: all that is asked for, or nothing
#[utoipa::path(patch, path = "/v1/machines/{name}", params(("name" = MachineName, Path)), request_body = SetRequest,
    responses((status = 200, body = Vm, description = "The machine as it is then.")))]
pub(super) async fn set(State(api): Shared, name: Name, Given(request): Given<SetRequest>) -> Answer<Json<Vm>> {
    let name = machine(name)?;
    check_sizes(request.cores, request.memory, request.disk_size)?;
    Ok(Json(off_the_runtime(move || api.control.change(LibraryChange::Set(name, request))).await?))
}

/// Give a machine of the library that does not run another name
#[utoipa::path(post, path = "/v1/machines/{name}/rename", params(("name" = MachineName, Path)), request_body = NameRequest,
    responses((status = 200, body = Vm, description = "The machine, under its new name.")))]
pub(super) async fn rename(
    State(api): Shared,
    name: Name,
    Given(request): Given<Option<NameRequest>>,
) -> Answer<Json<Vm>> {
    let (from, to) = (machine(name)?, request.ok_or_else(|| needed("the new name"))?.name);
    Ok(Json(off_the_runtime(move || api.control.change(LibraryChange::Rename { from, to })).await?))
}

/// Boot a machine of the library with further devices; the answer comes when it runs
///
/// A suspended machine continues. `POST /v1/machines/{name}/start` boots it with its own devices alone.
#[utoipa::path(post, path = "/v1/machines/{name}/run", params(("name" = MachineName, Path)),
    request_body(content = Option<RunRequest>, description = "Without one: its own devices."),
    responses((status = 200, body = Done, description = "It runs.")))]
pub(super) async fn run(State(api): Shared, name: Name, Given(request): Given<RunRequest>) -> Answer<Json<Done>> {
    check(&request)?;
    api.control.run(&machine(name)?, request).await?;
    Ok(Json(Done {}))
}

/// Save a machine's memory and end its guest; the answer comes when it is saved
///
/// The next start continues it.
#[utoipa::path(post, path = "/v1/machines/{name}/suspend", params(("name" = MachineName, Path)),
    responses((status = 200, body = Done, description = "It is suspended.")))]
pub(super) async fn suspend(State(api): Shared, name: Name) -> Answer<Json<Done>> {
    api.control.suspend(&machine(name)?).await?;
    Ok(Json(Done {}))
}

/// The addresses of a running machine
#[utoipa::path(get, path = "/v1/machines/{name}/addresses", params(("name" = MachineName, Path)),
    responses((status = 200, body = Addresses, description = "As of now.")))]
pub(super) async fn addresses(State(api): Shared, name: Name) -> Answer<Json<Addresses>> {
    Ok(Json(api.control.addresses(&machine(name)?).await?))
}

/// The screen of a running machine
#[utoipa::path(get, path = "/v1/machines/{name}/screenshot", params(("name" = MachineName, Path)),
    responses((status = 200, body = Vec<u8>, content_type = "image/png", description = "As of now.")))]
pub(super) async fn screenshot(State(api): Shared, name: Name) -> Answer<Response> {
    let png = api.control.screenshot(&machine(name)?).await?;
    Ok(([(header::CONTENT_TYPE, "image/png")], png).into_response())
}

/// A byte stream to the agent of a running machine of the library
///
/// Its protocol is in the page "The agent as a service". Requires the headers `Connection: upgrade` and
/// `Upgrade: darwin-vz-stream`, in HTTP/1.1, and no body.
#[utoipa::path(get, path = "/v1/machines/{name}/agent", params(("name" = MachineName, Path)),
    responses((status = 101, description = "The stream follows.")))]
pub(super) async fn agent(State(api): Shared, slot: GivenSlot, name: Name, request: Request) -> Answer<Response> {
    let name = machine(name)?;
    let guest = async move { api.control.agent(&name).await };
    tunnel(slot, request, guest).await
}

/// Paths are those of the daemon's host, whose working directory no client knows.
fn check(request: &RunRequest) -> Result<(), Report> {
    let disks = request.disks.iter().map(|disk| &disk.path);
    let relative = disks.chain(request.shares.iter().map(|share| &share.path)).find(|path| !path.starts_with('/'));
    if let Some(path) = relative {
        return Err(Report::new(Kind::Config, format!("{path:?} is no absolute path"))
            .hint("give paths from the root directory on"));
    }
    let tag = |tag: &str| (1..=36).contains(&tag.len()) && tag.bytes().all(|b| b.is_ascii_graphic() && b != b',');
    if let Some(share) = request.shares.iter().find(|share| !tag(&share.tag)) {
        return Err(Report::new(Kind::Config, format!("{:?} is no tag of a share", share.tag))
            .hint("a tag has 1 to 36 visible ASCII characters, and no comma"));
    }
    match request.expose.iter().any(|port| port.host == 0 || port.guest == 0) {
        true => Err(Report::new(Kind::Config, "a port is a number from 1 to 65535, and not 0")),
        false => Ok(()),
    }
}

/// What no machine can have; what this host cannot give shows at a start.
fn check_sizes(cores: Option<u32>, memory: Option<u64>, disk_size: Option<u64>) -> Result<(), Report> {
    let most = i64::MAX.unsigned_abs();
    let refused = |why: String| Err(Report::new(Kind::Config, why));
    match (cores, memory, disk_size) {
        (Some(0), ..) => refused("a machine has at least one processor".to_owned()),
        (_, Some(bytes), _) if bytes == 0 || bytes > most => refused(format!("no machine has {bytes} bytes of memory")),
        (.., Some(bytes)) if bytes == 0 || bytes > most || !bytes.is_multiple_of(512) => {
            refused(format!("a disk cannot have {bytes} bytes: it has sectors of 512, and at least one"))
        }
        _ => Ok(()),
    }
}

fn needed(what: &str) -> Report {
    Report::new(Kind::Config, format!("the body is missing, which says {what}"))
        .hint("send an object in JSON; the API's reference has its fields")
}

/// Runs work on a disk to its end, even if the client no longer waits for it.
async fn off_the_runtime<T: Send + 'static>(work: impl FnOnce() -> Result<T, Report> + Send + 'static) -> Answer<T> {
    Ok(spawn_blocking(work).await.map_err(|error| Report::new(Kind::Internal, error.to_string()))??)
}
