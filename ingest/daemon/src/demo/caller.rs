//! One SRT caller on one UDP socket and one thread: the demo's encoder publishes and its viewer plays through it, with
//! the project's own engine.
//!
//! Promises: calls again until the first connection is up (a receiver that has not seen the publisher yet refuses
//! players); after that it never reconnects by itself, so that a broken connection shows; ends by dropping, with a
//! SHUTDOWN to the peer.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bondgate_io::socket::{BindOptions, bind_udp};
use bondgate_io::{AnyBackend, Backend, Choice, Gro, Limits, Role, SocketId, Waker};
use bondgate_srt::{ConnId, ConnectOptions, Endpoint, EndpointConfig, Event, Stats, TRANSMIT_MIN};
use bytes::Bytes;
use crossbeam::channel::{Receiver, Sender, bounded};

/// Payloads between the encoder's thread and the caller's: two seconds at 3 Mb/s.
const OUTBOX: usize = 1024;
/// Longest wait between two looks at the stop flag; also how often the figures are published.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Pause before calling again after a refusal.
const CALL_AGAIN_AFTER: Duration = Duration::from_millis(100);

/// What gets the payloads that arrive, with the time they came out of the engine. Called from the caller's thread.
pub type OnPayload = Box<dyn FnMut(Instant, &Bytes) + Send>;

/// Whom to call and for what.
#[derive(Clone, Debug)]
pub struct Call {
    /// Name of the thread.
    pub name: &'static str,
    /// The peer.
    pub to: SocketAddr,
    /// What is asked for, such as `publish/demo`.
    pub stream_id: String,
    /// Latency asked for; the peer may want more.
    pub latency: Duration,
}

/// What is known about the connection.
#[derive(Clone, Debug, Default)]
pub struct Line {
    /// Latency of what we send and of what we receive, once connected.
    pub latencies: Option<(Duration, Duration)>,
    /// Why the connection ended, or why the last call failed.
    pub trouble: Option<String>,
    /// The connection is over.
    pub is_over: bool,
    /// The engine's figures, a tenth of a second old at most.
    pub stats: Stats,
    /// Payloads the engine did not take.
    pub refused_payloads: u64,
}

/// The running caller.
#[derive(Debug)]
pub struct Caller {
    shared: Arc<Shared>,
    outbox: Outbox,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    line: Mutex<Line>,
}

impl Shared {
    fn line(&self) -> MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where payloads to send are put.
#[derive(Clone, Debug)]
pub struct Outbox {
    queue: Sender<Bytes>,
    waker: Waker,
}

impl Outbox {
    /// Hands a payload to the caller's thread; waits while two seconds' worth is queued. A caller that ended takes
    /// nothing any more; what it did not take is missing at the viewer.
    pub fn push(&self, payload: Bytes) {
        if self.queue.send(payload).is_ok() {
            self.waker.wake();
        }
    }
}

impl Caller {
    /// Starts to call. `secret` must be random.
    ///
    /// # Errors
    /// When the socket or the thread cannot be made.
    pub fn start(call: Call, secret: [u8; 16], on_payload: OnPayload) -> io::Result<Self> {
        let limits =
            Limits { sockets: 4, buffers: 1024, gro: Gro::Off, linger_us_max: 0, ..Limits::default() };
        let (mut backend, _) = bondgate_io::open(Choice::Mmsg, &limits)?;
        let socket = bind_udp((Ipv4Addr::LOCALHOST, 0).into(), &BindOptions::default())?;
        let socket = backend.add(socket, Role::Unconnected)?;
        let (queue, outgoing) = bounded(OUTBOX);
        let outbox = Outbox { queue, waker: backend.waker() };
        let shared = Arc::new(Shared::default());
        let now = Instant::now();
        let config = EndpointConfig { listen: false, connections_max: 4, ..EndpointConfig::default() };
        let name = call.name;
        let mut talk = Talk {
            endpoint: Endpoint::new(config, secret, 0, now),
            backend,
            socket,
            call,
            conn: None,
            call_at: now,
            outgoing,
            on_payload,
            shared: Arc::clone(&shared),
        };
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            if let Err(error) = talk.run() {
                let mut line = talk.shared.line();
                (line.is_over, line.trouble) = (true, Some(error.to_string()));
            }
        })?;
        Ok(Self { shared, outbox, thread: Some(thread) })
    }

    /// Where payloads to send are put.
    pub fn outbox(&self) -> Outbox {
        self.outbox.clone()
    }

    /// What is known at this moment.
    pub fn line(&self) -> Line {
        self.shared.line().clone()
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.outbox.waker.wake();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join(); // its panic was reported by the hook
        }
    }
}

/// The thread's state.
struct Talk {
    endpoint: Endpoint<SocketAddr>,
    backend: AnyBackend,
    socket: SocketId,
    call: Call,
    conn: Option<ConnId>,
    /// When to call (again), while there is no connection.
    call_at: Instant,
    outgoing: Receiver<Bytes>,
    on_payload: OnPayload,
    shared: Arc<Shared>,
}

impl Talk {
    fn run(&mut self) -> io::Result<()> {
        let mut publish_at = Instant::now();
        while !self.shared.stop.load(Ordering::Relaxed) {
            let wake_at = self.endpoint.poll_timeout();
            let wait = wake_at.map_or(LOOK_EVERY, |at| at.saturating_duration_since(Instant::now()));
            let received = self.backend.receive(Some(wait.min(LOOK_EVERY)))?;
            let now = Instant::now();
            for index in 0..received {
                let datagram = self.backend.datagram(index);
                self.endpoint.handle(now, datagram.from, 0, datagram.bytes);
            }
            if self.endpoint.poll_timeout().is_some_and(|at| at <= now) {
                self.endpoint.handle_timeout(now);
            }
            self.events(now);
            self.place_call(now);
            self.send_queued(now);
            self.transmit(now);
            if now >= publish_at {
                publish_at = now + LOOK_EVERY;
                if let Some(stats) = self.conn.and_then(|conn| self.endpoint.stats(conn)) {
                    self.shared.line().stats = stats;
                }
            }
        }
        if let Some(conn) = self.conn {
            let now = Instant::now();
            self.endpoint.close(now, conn);
            self.transmit(now);
        }
        Ok(())
    }

    fn events(&mut self, now: Instant) {
        while let Some(event) = self.endpoint.poll_event() {
            match event {
                Event::Data { payload, .. } => (self.on_payload)(now, &payload),
                Event::Connected { receive_latency, send_latency, .. } => {
                    let mut line = self.shared.line();
                    (line.latencies, line.trouble) = (Some((send_latency, receive_latency)), None);
                }
                Event::Closed { reason, .. } => {
                    self.conn = None;
                    self.call_at = now + CALL_AGAIN_AFTER;
                    let mut line = self.shared.line();
                    line.is_over = line.latencies.is_some();
                    line.trouble = Some(reason.to_string());
                }
                _ => {}
            }
        }
    }

    fn place_call(&mut self, now: Instant) {
        if self.conn.is_none() && now >= self.call_at && !self.shared.line().is_over {
            let options = ConnectOptions {
                stream_id: Bytes::copy_from_slice(self.call.stream_id.as_bytes()),
                latency: self.call.latency,
                ..ConnectOptions::default()
            };
            self.conn = self.endpoint.connect(now, self.call.to, options);
            self.call_at = now + CALL_AGAIN_AFTER;
        }
    }

    fn send_queued(&mut self, now: Instant) {
        for payload in self.outgoing.try_iter() {
            let sent = self.conn.is_some_and(|conn| self.endpoint.send(now, conn, payload).is_ok());
            if !sent {
                self.shared.line().refused_payloads += 1;
            }
        }
    }

    fn transmit(&mut self, now: Instant) {
        let mut buffer = [0; TRANSMIT_MIN];
        while let Some(transmit) = self.endpoint.poll_transmit(now, &mut buffer) {
            if let Some(bytes) = buffer.get(..transmit.len) {
                self.backend.send(self.socket, Some(transmit.to), bytes);
            }
        }
        self.backend.flush();
        // A refused datagram is repeated by the engine, like a lost one.
        while self.backend.next_error().is_some() {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;

    #[test]
    fn nobody_there_is_told_and_called_again() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let call = Call {
            name: "test",
            to: socket.local_addr().unwrap(),
            stream_id: "publish/test".to_owned(),
            latency: Duration::from_millis(120),
        };
        let caller = Caller::start(call, [7; 16], Box::new(|_, _| panic!("nothing can arrive"))).unwrap();
        let mut buffer = [0; 2000];
        for _ in 0..2 {
            let (len, _) = socket.recv_from(&mut buffer).unwrap();
            assert_eq!((len, &buffer[..2]), (64, &[0x80, 0][..]), "INDUCTION");
        }
        let line = caller.line();
        assert!(line.latencies.is_none() && !line.is_over);
    }
}
