//! The HTTP server: recommendations out, events in.
//!
//! Requests are parsed and answered on the threads of actix-web; the pipeline runs on a pool of its own; whatever blocks
//! on the disk runs on threads for that. Issues with a request are told as RFC 9457 problem details.

mod answer;
mod body;
mod catalogue;
mod docs;
mod erase;
mod events;
mod explain;
mod health;
mod ids;
mod impressions;
mod intake;
mod keys;
mod lists;
mod merge;
mod metrics;
mod observer;
mod operations;
mod pages;
mod pool;
mod problem;
mod reasons;
mod recommend;
mod releases;
mod request;
mod served;
mod state;

use std::net::{SocketAddr, ToSocketAddrs};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use actix_web::body::BoxBody;
use actix_web::dev::{Server, ServerHandle, ServiceFactory, ServiceRequest, ServiceResponse};
use actix_web::http::{StatusCode, header};
use actix_web::middleware::from_fn;
use actix_web::rt::signal::unix::{SignalKind, signal};
use actix_web::{App, Error, HttpRequest, HttpResponse, HttpServer, Resource, rt, web};
use anyhow::{Context, anyhow, bail};
use engine::clock::Clock;
use engine::config::Config;
use tokio::sync::oneshot;

use keys::Access;
use observer::{UNMATCHED, observe};
use operations::{Operation, operations};
use problem::Problem;
use state::{Engine, Phase};

use crate::commands::UsageError;

/// How long the head of a request may take to arrive.
const HEAD_DEADLINE: Duration = Duration::from_secs(10);

/// Where administration is if others can reach the server and nothing else is said.
const DEFAULT_ADMIN: &str = "127.0.0.1:8081";

/// How long a connection without a request stays open.
const KEEP_ALIVE: Duration = Duration::from_secs(75);

/// How long requests in flight may take when the server ends, in seconds.
const DRAIN_SECONDS: u64 = 10;

/// Threads of each HTTP worker for work that blocks on the disk.
const BLOCKING_THREADS: usize = 16;

/// Serves the active release of `config` at `listen` until the process is told to end, and then leaves everything on
/// the disk. `listening` is called once, with the server's URL and that of its administration if that has one of its own, when connections are accepted; `/health/ready` tells
/// when the release is loaded.
///
/// # Errors
/// If the address is not a loopback address and there are no keys, or it cannot be taken, there is no release that can be served, or the log
/// cannot be used.
pub(crate) fn serve(
    config: &Config,
    listen: &str,
    clock: Clock,
    listening: impl FnOnce(&str, Option<&str>),
) -> anyhow::Result<()> {
    let has_keys = !config.server.keys.is_empty();
    let address = guarded_address(listen, has_keys)?;
    let admin = config.server.admin_listen.as_deref().or_else(|| {
        // What others can reach is not where a release is activated, unless that is wanted.
        (!address.ip().is_loopback()).then_some(DEFAULT_ADMIN)
    });
    let admin = admin.map(|listen| guarded_address(listen, has_keys)).transpose()?;
    let engine = Arc::new(Engine::start(config, clock)?);
    rt::System::new().block_on(async {
        let (server, address, admin) = start(engine.clone(), address, admin)?;
        let url = |address: SocketAddr| format!("http://{address}");
        listening(&url(address), admin.map(url).as_deref());
        run_until_told(&engine, server).await
    })?;
    engine.close()
}

/// The address that `listen` names. Without keys, nobody but this machine may reach the server.
fn guarded_address(listen: &str, has_keys: bool) -> anyhow::Result<SocketAddr> {
    let addresses = listen.to_socket_addrs();
    let addresses =
        addresses.with_context(|| format!("{listen:?} is not an address with a port"))?;
    let mut addresses: Vec<SocketAddr> = addresses.collect();
    let open = addresses.iter().find(|address| !has_keys && !address.ip().is_loopback());
    if let Some(open) = open {
        bail!(UsageError(format!(
            "{listen:?} is refused: {open} is not a loopback address, and there are no API keys \
             that would protect it; write some as [[server.keys]], or listen on 127.0.0.1"
        )));
    }
    addresses.sort_by_key(SocketAddr::is_ipv6);
    addresses.first().copied().with_context(|| format!("{listen:?} has no address"))
}

/// The server, and the addresses that it was bound to.
fn start(
    engine: Arc<Engine>,
    address: SocketAddr,
    admin: Option<SocketAddr>,
) -> anyhow::Result<(Server, SocketAddr, Option<SocketAddr>)> {
    let data = web::Data::from(engine.clone());
    let app = move || App::new().app_data(data.clone()).configure(|config| routes(config, &data));
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let mut server = HttpServer::new(app)
        .workers(cores.div_ceil(2))
        .worker_max_blocking_threads(BLOCKING_THREADS)
        .client_request_timeout(HEAD_DEADLINE)
        .keep_alive(KEEP_ALIVE)
        .shutdown_timeout(DRAIN_SECONDS)
        .disable_signals()
        .bind(address)
        .with_context(|| format!("cannot listen on {address}"))?;
    if let Some(admin) = admin {
        server = server.bind(admin).with_context(|| format!("cannot listen on {admin}"))?;
    }
    let bound = server.addrs();
    let first = bound.first().copied().context("no address was bound")?;
    let admin = admin.and(bound.get(1)).map(|admin| *engine.admin.get_or_init(|| *admin));
    Ok((server.run(), first, admin))
}

fn routes(config: &mut web::ServiceConfig, engine: &web::Data<Engine>) {
    // The first that matches a path wins: those of one path are one resource.
    let mut paths: Vec<(&str, Vec<Operation>)> = Vec::new();
    for operation in operations() {
        match paths.iter_mut().find(|(path, _)| *path == operation.path) {
            Some((_, of_path)) => of_path.push(operation),
            None => paths.push((operation.path, vec![operation])),
        }
    }
    // The paths that are what they say need no search, and most requests are for them.
    paths.sort_by_key(|(path, _)| path.contains('{'));
    for (path, operations) in paths {
        let allow = operations.iter().map(|it| it.method).collect::<Vec<_>>().join(", ");
        let access = operations[0].access;
        let mut resource = web::resource(path);
        for operation in operations {
            resource = resource.route(operation.route);
        }
        config.service(observed(resource, path, allow, access, engine.clone()));
    }
    let engine = engine.clone();
    let unmatched = from_fn(move |request, next| {
        observe(engine.clone(), UNMATCHED, Access::Open, request, next)
    });
    config.default_service(web::to(not_found).wrap(unmatched));
}

/// `resource` at `path`, which has the methods in `allow`, for those who have `access`. The observer gives errors their
/// body.
fn observed(
    resource: Resource,
    path: &'static str,
    allow: String,
    access: Access,
    engine: web::Data<Engine>,
) -> Resource<
    impl ServiceFactory<
        ServiceRequest,
        Config = (),
        Response = ServiceResponse<BoxBody>,
        Error = Error,
        InitError = (),
    > + use<>,
> {
    let resource = resource.default_service(web::to(move || {
        let response =
            HttpResponse::MethodNotAllowed().insert_header((header::ALLOW, &*allow)).finish();
        async move { response }
    }));
    resource
        .wrap(from_fn(move |request, next| observe(engine.clone(), path, access, request, next)))
}

async fn not_found(http: HttpRequest) -> Result<HttpResponse, Problem> {
    let path: String = http.path().chars().take(200).collect();
    Err(Problem::new(StatusCode::NOT_FOUND, "not_found", format!("there is no route {path}")))
}

/// Runs `server` until a signal tells the process to end, or the release cannot be loaded.
async fn run_until_told(engine: &Arc<Engine>, server: Server) -> anyhow::Result<()> {
    let handle = server.handle();
    for kind in [SignalKind::terminate(), SignalKind::interrupt()] {
        let mut told = signal(kind).context("cannot listen for signals")?;
        let (engine, handle) = (engine.clone(), handle.clone());
        rt::spawn(async move {
            told.recv().await;
            engine.drain();
            handle.stop(true).await;
        });
    }
    let mut failed = load(engine.clone(), handle)?;
    server.await.context("the server failed")?;
    // Nothing was sent if the release was loaded, or is still being loaded while the process ends.
    failed.try_recv().map_or(Ok(()), Err)
}

/// Loads the release on a thread of its own. If that fails, the server is stopped and the reason sent.
fn load(
    engine: Arc<Engine>,
    handle: ServerHandle,
) -> anyhow::Result<oneshot::Receiver<anyhow::Error>> {
    let (failure, failed) = oneshot::channel();
    thread::Builder::new()
        .name("loader".into())
        .spawn(move || {
            let loaded = catch_unwind(AssertUnwindSafe(|| engine.load()));
            if let Err(error) = loaded.unwrap_or_else(|_| Err(anyhow!("loading panicked"))) {
                // What was told to end, perhaps while it waited for Redis, has not failed.
                if engine.phase() == Phase::Draining {
                    return;
                }
                // The receiver is there until the server has stopped.
                let _ = failure.send(error);
                drop(handle.stop(false));
            }
        })
        .context("cannot start a thread")?;
    Ok(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_addresses_are_taken_without_keys() {
        for listen in ["127.0.0.1:8080", "[::1]:0", "127.0.0.9:1"] {
            assert!(guarded_address(listen, false).is_ok(), "{listen}");
        }
        for listen in ["0.0.0.0:8080", "[::]:8080", "192.0.2.1:80"] {
            assert!(guarded_address(listen, false).is_err(), "{listen}");
            assert!(guarded_address(listen, true).is_ok(), "{listen}");
        }
        for listen in ["127.0.0.1", "8080"] {
            assert!(guarded_address(listen, true).is_err(), "{listen}");
        }
        let message = guarded_address("0.0.0.0:80", false).unwrap_err().to_string();
        assert!(message.contains("no API keys"), "{message}");
    }
}
