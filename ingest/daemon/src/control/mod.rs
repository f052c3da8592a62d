//! The control plane: its own thread and runtime, never on a shard. It reads published snapshots and answers metrics
//! and health over HTTP, so that a slow dashboard cannot slow a stream.

pub mod bans;
pub mod catalogue;
pub mod config_watch;
pub mod gate;
pub mod geo;
pub mod health;
pub mod keyring_file;
pub mod keyring_watch;
pub mod metrics;
pub mod notify;
pub mod privileges;
pub mod secret_file;
pub mod signals;
pub mod stamp;
pub mod steering;

use std::fmt::Write as _;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use bondgate_auth::cidr::Cidr;
use serde::Serialize;
use tokio::sync::oneshot;

use crate::config::Config;
use crate::shard::snapshot::SnapshotSlot;

/// How long open HTTP exchanges may take to end when the daemon stops.
const STOP_WITHIN: Duration = Duration::from_millis(500);
/// Pause between two looks for the answer of a shard.
const ANSWER_LOOK_EVERY: Duration = Duration::from_millis(10);
/// How long somebody who asks for the configuration to be read again waits at most.
const RELOAD_WITHIN: Duration = Duration::from_secs(10);

/// What the daemon as a whole is doing.
#[derive(Debug, Default)]
pub struct ServiceState {
    /// All ports are bound and all shards turn.
    pub ready: AtomicBool,
    /// A stop was asked for.
    pub draining: AtomicBool,
    /// Figures of the bans.
    pub bans: Arc<bans::watch::BanFigures>,
    /// Figures of the database of countries.
    pub geo: Arc<geo::watch::GeoFigures>,
    /// Which configuration is in force.
    pub config: Arc<config_watch::ConfigState>,
    /// What is known of the gate.
    pub gate: Arc<gate::GateSlot>,
    /// Threads give up their capabilities once they have started.
    pub drops_privileges: AtomicBool,
    /// What the kernel knows of links.
    pub steering: Arc<steering::SteeringState>,
}

/// What the HTTP handlers read.
struct Reader {
    slots: Vec<SnapshotSlot>,
    state: Arc<ServiceState>,
    started: Instant,
    clock: Box<dyn Fn() -> Instant + Send + Sync>,
    metrics: metrics::Metrics,
    /// Shards are asked one thing at a time.
    asking: tokio::sync::Mutex<()>,
}

/// The running control plane.
#[derive(Debug)]
pub struct ControlHandle {
    local_addr: Option<SocketAddr>,
    worker: Option<(oneshot::Sender<()>, JoinHandle<()>)>,
}

impl ControlHandle {
    /// Where metrics and health are served; `None` when `admin.listen` is off.
    pub const fn local_addr(&self) -> Option<SocketAddr> {
        self.local_addr
    }

    /// Stops serving; returns within about half a second.
    pub fn stop(self) {
        if let Some((stop, thread)) = self.worker {
            // Either side may have ended first; there is nothing left to stop then.
            let _ = stop.send(());
            let _ = thread.join();
        }
    }
}

/// Starts the control plane on a thread of its own.
///
/// # Errors
/// `admin.listen` cannot be bound, or there is no thread to be had; the message names the key and what to do.
pub fn start(
    config: &Config,
    slots: Vec<SnapshotSlot>,
    state: Arc<ServiceState>,
) -> io::Result<ControlHandle> {
    start_with_clock(config.admin.listen, slots, state, Instant::now)
}

fn start_with_clock(
    listen: Option<SocketAddr>,
    slots: Vec<SnapshotSlot>,
    state: Arc<ServiceState>,
    clock: impl Fn() -> Instant + Send + Sync + 'static,
) -> io::Result<ControlHandle> {
    let Some(listen) = listen else {
        return Ok(ControlHandle { local_addr: None, worker: None });
    };
    let explain = |error: &io::Error| {
        let help = match error.kind() {
            io::ErrorKind::AddrInUse => "another program has this port; choose another one, or \"off\"",
            io::ErrorKind::AddrNotAvailable => "this machine has no such address",
            io::ErrorKind::PermissionDenied => "ports below 1024 need privileges; choose a higher one",
            _ => "choose another address, or \"off\"",
        };
        io::Error::new(
            error.kind(),
            format!("cannot listen on admin.listen = \"{listen}\": {error} ({help})"),
        )
    };
    let listener = TcpListener::bind(listen).map_err(|error| explain(&error))?;
    listener.set_nonblocking(true)?;
    let local_addr = listener.local_addr()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
    let started = clock();
    let metrics = metrics::Metrics::new();
    let reader = Arc::new(Reader {
        slots,
        state,
        started,
        clock: Box::new(clock),
        metrics,
        asking: tokio::sync::Mutex::default(),
    });
    let (stop, stopped) = oneshot::channel();
    let thread = std::thread::Builder::new().name("control".to_owned()).spawn(move || {
        if reader.state.drops_privileges.load(Ordering::Relaxed) {
            privileges::drop_all();
        }
        if let Err(error) = runtime.block_on(serve(listener, router(reader), stopped)) {
            tracing::error!("metrics and health ended: {error}");
        }
    })?;
    tracing::info!("metrics and health: http://{local_addr}/");
    Ok(ControlHandle { local_addr: Some(local_addr), worker: Some((stop, thread)) })
}

async fn serve(listener: TcpListener, router: Router, stopped: oneshot::Receiver<()>) -> io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let (drain, drained) = oneshot::channel::<()>();
    let server = axum::serve(listener, router)
        .with_graceful_shutdown(async move {
            let _ = drained.await;
        })
        .into_future();
    let mut server = std::pin::pin!(server);
    tokio::select! {
        result = &mut server => return result,
        _ = stopped => {}
    }
    drop(drain);
    // A client that does not read its answer is cut off.
    tokio::time::timeout(STOP_WITHIN, server).await.unwrap_or(Ok(()))
}

const PATHS: [(&str, &str); 6] = [
    ("/metrics", "figures for Prometheus"),
    ("/livez", "200 while every shard turns, 503 otherwise"),
    ("/readyz", "200 while streams are served, 503 while starting or stopping"),
    ("/config", "which configuration is in force, and what of the file is not"),
    ("/reload", "POST: reads the configuration file again, and answers as /config; 422 if it is refused"),
    ("/links-in/ADDR/PREFIX", "how many live links there are in a network, and of which streams"),
];

fn router(reader: Arc<Reader>) -> Router {
    Router::new()
        .route("/", get(async || index()))
        .route("/metrics", get(scrape))
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/config", get(config))
        .route("/reload", post(reload))
        .route("/links-in/{addr}/{prefix}", get(links_in))
        .fallback(async || (StatusCode::NOT_FOUND, index()))
        .with_state(reader)
}

fn index() -> String {
    let mut text = format!("bondgate {}\n\n", env!("CARGO_PKG_VERSION"));
    for (path, what) in PATHS {
        let _ = writeln!(text, "{path:<22} {what}");
    }
    text
}

async fn scrape(State(reader): State<Arc<Reader>>) -> Response {
    match reader.metrics.render(&reader.slots, &reader.state, (reader.clock)()) {
        Ok(text) => ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

async fn livez(State(reader): State<Arc<Reader>>) -> Response {
    answer(health::alive(&reader.slots, reader.started, (reader.clock)()))
}

async fn readyz(State(reader): State<Arc<Reader>>) -> Response {
    answer(health::ready(&reader.state))
}

/// Which configuration is in force.
async fn config(State(reader): State<Arc<Reader>>) -> Response {
    json(StatusCode::OK, &reader.state.config.read())
}

/// Asks the supervisor to read the configuration again, for `bondgate reload`.
async fn reload(State(reader): State<Arc<Reader>>) -> Response {
    let number = reader.state.config.ask();
    let deadline = Instant::now() + RELOAD_WITHIN;
    loop {
        let status = reader.state.config.read();
        if status.answered >= number {
            let code =
                if status.problems.is_empty() { StatusCode::OK } else { StatusCode::UNPROCESSABLE_ENTITY };
            return json(code, &status);
        }
        if Instant::now() >= deadline {
            let why = "the configuration file keeps changing, or a database of countries is being read\n";
            return (StatusCode::SERVICE_UNAVAILABLE, why).into_response();
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn json(code: StatusCode, value: &impl Serialize) -> Response {
    match serde_json::to_string(value) {
        Ok(text) => (code, [(header::CONTENT_TYPE, "application/json")], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

/// Whom a ban would hit, for `bondgate ban add`. Every shard answers at its next beat.
async fn links_in(State(reader): State<Arc<Reader>>, Path((addr, prefix)): Path<(IpAddr, u8)>) -> Response {
    let _one_at_a_time = reader.asking.lock().await;
    for slot in &reader.slots {
        slot.ask(Cidr { addr, prefix });
    }
    let (mut links, mut streams) = (0, std::collections::BTreeSet::new());
    let gather = async {
        for slot in &reader.slots {
            let found = loop {
                match slot.answer() {
                    Some(found) => break found,
                    None => tokio::time::sleep(ANSWER_LOOK_EVERY).await,
                }
            };
            links += found.links;
            streams.extend(found.streams);
        }
    };
    if tokio::time::timeout(health::HEARTBEAT_MAX, gather).await.is_err() {
        return (StatusCode::SERVICE_UNAVAILABLE, "a shard does not answer\n").into_response();
    }
    let found = serde_json::json!({ "links": links, "streams": streams });
    json(StatusCode::OK, &found)
}

fn answer(state: Result<(), String>) -> Response {
    match state {
        Ok(()) => "ok\n".into_response(),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")).into_response(),
    }
}

#[cfg(test)]
mod tests;
