//! `bondgate run`: the ingest server.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::config::{AuthMode, Config, OutputMode, Sources};
use crate::control::bans::BanWatch;
use crate::control::config_watch::{Change, ConfigWatch, SETTLED, check_open_ingest};
use crate::control::gate::GateControl;
use crate::control::geo::watch::{GeoFigures, GeoWatch};
use crate::control::keyring_watch::KeyringWatch;
use crate::control::notify::Notify;
use crate::control::signals::Signals;
use crate::control::stamp::Stamp;
use crate::control::steering::Steering;
use crate::control::{self, ServiceState, health, privileges};
use crate::exit::Failure;
use crate::service::Service;
use crate::shard::notice::{Notice, Notices};
use bondgate_proto::receiver::Notice as SrtlaNotice;

/// How often the supervisor looks at notices, signals, heartbeats, the keyring, the bans and the configuration: a revoked key ends within it.
const LOOK_EVERY: Duration = Duration::from_millis(25);
/// How often it looks at slower things: the ticket epoch, the watchdog.
const TICK_EVERY: Duration = Duration::from_secs(1);

/// Serves until a signal asks to stop.
///
/// # Errors
/// What stopped it.
pub fn run(
    (sources, stamp): (Sources, Stamp),
    config: &Config,
    accept_open_ingest: bool,
) -> Result<(), Failure> {
    check_open_ingest(config, accept_open_ingest).map_err(Failure::config)?;
    let signals = Signals::install().map_err(|e| Failure::runtime(format!("cannot handle signals: {e}")))?;
    let notify = Notify::from_env();
    let (mut keyring, policy) =
        KeyringWatch::start(config).map_err(|e| Failure::runtime(format!("{e:#}")))?;
    let mut bans = BanWatch::start(config).map_err(|e| Failure::runtime(format!("{e:#}")))?;
    let figures = Arc::<GeoFigures>::default();
    let mut geo = GeoWatch::start(&config.geo, figures.clone(), Instant::now())
        .map_err(|e| Failure::runtime(format!("{e:#}")))?;
    let mut configs =
        ConfigWatch::start((sources, stamp), config.clone(), accept_open_ingest, Instant::now());
    let service = Service::start(config, bans.apply(&policy).with_geo(geo.set()))
        .map_err(|e| Failure::runtime(format!("{e:#}")))?;
    let state = Arc::new(ServiceState {
        bans: bans.figures(),
        geo: figures,
        config: configs.state(),
        ..ServiceState::default()
    });
    state.drops_privileges.store(config.gate.drop_privileges, Ordering::Relaxed);
    let gate = GateControl::start(config, &service, Arc::clone(&state.gate))
        .map_err(|e| Failure::runtime(format!("{e:#}")))?;
    let steering = Steering::start(config, &service, Arc::clone(&state.steering))
        .map_err(|e| Failure::runtime(format!("{e:#}")))?;
    let control = control::start(config, service.slots().to_vec(), state.clone())
        .map_err(|e| Failure::runtime(format!("{e:#}")))?;

    if config.gate.drop_privileges {
        privileges::drop_all();
    }

    tracing::info!("backend {}", service.backend());
    match (config.output.mode, service.srt_addr()) {
        (OutputMode::Relay, Some(srt)) => {
            tracing::info!(srtla = %service.srtla_addr(), srt = %srt, "ready: relay");
        }
        _ => {
            tracing::info!(srtla = %service.srtla_addr(), server = config.forward.server, "ready: forward");
        }
    }
    match config.srtla.auth {
        AuthMode::Open => tracing::warn!("srtla.auth is \"open\": every sender may register"),
        AuthMode::Mixed => tracing::info!("senders without a key may register from srtla.stock_allow"),
        AuthMode::Required => {}
    }
    state.ready.store(true, Ordering::Release);
    notify.ready("serving");

    let started = Instant::now();
    let mut tick_at = started;
    let mut failed = false;
    while !signals.stop_requested() {
        std::thread::sleep(if configs.is_waiting() { SETTLED } else { LOOK_EVERY });
        log(service.notices(), &keyring, &mut bans);
        keyring.look(&service);
        bans.look(&service);
        if let Some(countries) = geo.look(Instant::now()) {
            service.publish(service.policy().with_geo(Some(countries)));
        }
        if let Some(Change { config, countries }) = configs.look(Instant::now(), signals.take_reload(), &geo)
        {
            bans.set_rules(&config.bans);
            geo.change(&config.geo, countries, Instant::now());
            service.publish(service.policy().with_rules(&config).with_geo(geo.set()));
            configs.is_in_force();
        }
        if let Some(on) = signals.take_steering()
            && let Err(error) = steering.set(on)
        {
            tracing::warn!("{error}");
        }
        if Instant::now() >= tick_at {
            tick_at = Instant::now() + TICK_EVERY;
            service.tick();
            // A shard that hangs must be noticed by the service manager too.
            if health::alive(service.slots(), started, Instant::now()).is_ok() {
                notify.watchdog();
            }
        }
        if service.failed() {
            failed = true;
            break;
        }
    }

    state.draining.store(true, Ordering::Release);
    notify.stopping();
    tracing::info!("stopping");
    let notices = service.notices().clone();
    gate.stop();
    steering.stop();
    let stopped = service.stop();
    log(&notices, &keyring, &mut bans);
    bans.finish();
    control.stop();
    stopped.map_err(|e| Failure::runtime(format!("{e:#}")))?;
    if failed { Err(Failure::runtime("a shard ended by itself")) } else { Ok(()) }
}

fn log(notices: &Notices, keyring: &KeyringWatch, bans: &mut BanWatch) {
    while let Some(notice) = notices.pop() {
        match notice {
            Notice::TokenSpent { token } => keyring.spend(token),
            Notice::Srtla(SrtlaNotice::Strike { ip }) => bans.strike(ip),
            _ => {}
        }
        if notice.is_warning() {
            tracing::warn!("{notice}");
        } else {
            tracing::info!("{notice}");
        }
    }
    let lost = notices.take_lost();
    if lost > 0 {
        tracing::warn!(lost, "more events than could be logged");
    }
}
