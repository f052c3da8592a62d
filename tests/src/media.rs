//! Encoders and viewers: ffmpeg and srt-live-transmit as users run them, and a synthetic transport stream whose every packet
//! is numbered.

use std::io::Write;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::ledger::TS_PACKET_LEN;
use crate::process::Process;
use crate::scene::{Scene, wait_until};

/// Bytes of one SRT message: seven transport stream packets.
pub const MESSAGE_LEN: usize = 7 * TS_PACKET_LEN;

/// Time a [`Feed`] gives srt-live-transmit to take a message out of the pipe before it looks again.
const PIPE_POLL: Duration = Duration::from_micros(200);
/// A publisher that takes nothing for this long has failed.
const PIPE_TIMEOUT: Duration = Duration::from_secs(5);

/// A transport stream of `packets` numbered packets whose content follows from `seed`. It is well-formed (sync bytes,
/// continuity counters) and carries no picture.
pub fn synthetic_ts(packets: usize, seed: u64) -> Vec<u8> {
    let mut stream = Vec::with_capacity(packets * TS_PACKET_LEN);
    let mut state = seed;
    for number in 0..packets as u64 {
        stream.extend([0x47, 0x01, 0x00, 0x10 | (number as u8 & 15)]);
        stream.extend(number.to_be_bytes());
        while stream.len() % TS_PACKET_LEN != 0 {
            // Weyl sequence and a mixer: reproducible, and no packet resembles another.
            state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let mixed = (state ^ (state >> 31)).wrapping_mul(0xD6E8_FEB8_6659_FD93);
            stream.extend(&mixed.to_be_bytes()[..4]);
        }
    }
    stream
}

/// A publisher: srt-live-transmit fed through a pipe at a constant rate, which stays connected for a while after the last
/// byte, so that nothing is lost by closing. Every message put in is put on the wire: the tool reads up to 4096 bytes into
/// a buffer of its own, sends one message, and looks at its buffer again only when the pipe has more; so the last message
/// is put into an empty pipe, where it is read alone when the tool's buffer is empty.
#[derive(Debug)]
pub struct Feed {
    process: Process,
    writer: JoinHandle<Result<()>>,
}

impl Feed {
    /// Publishes `stream` at `rate_bps` to an SRT URI such as `srt://127.0.0.1:9710?streamid=publish/a`. Tries to connect
    /// again and again, as encoders do, and returns when it is connected.
    ///
    /// # Errors
    /// When it is not connected within ten seconds.
    pub fn start(scene: &Scene, uri: &str, stream: Vec<u8>, rate_bps: u64, hold: Duration) -> Result<Self> {
        Self::start_command(scene, || feed_command(uri), stream, rate_bps, hold)
    }

    /// Like [`Feed::start`], with a command that behaves as [`feed_command`].
    ///
    /// # Errors
    /// When it is not connected within ten seconds.
    pub fn start_command(
        scene: &Scene,
        command: impl Fn() -> Command,
        stream: Vec<u8>,
        rate_bps: u64,
        hold: Duration,
    ) -> Result<Self> {
        let start = || Process::spawn_with(scene, "feed", command(), Stdio::piped(), Stdio::piped());
        let mut process = start()?;
        wait_until("connection of the publisher", Duration::from_secs(10), || {
            if process.expect_running().is_err() {
                process = start()?;
            }
            Ok(process.log().has_line("SRT target connected").then_some(()))
        })?;
        let mut pipe = process.take_stdin().context("no pipe to srt-live-transmit")?;
        let writer = std::thread::spawn(move || {
            let start = Instant::now();
            let mut sent_bits = 0;
            let last = stream.len().saturating_sub(1) / MESSAGE_LEN;
            for (index, message) in stream.chunks(MESSAGE_LEN).enumerate() {
                let due = start + Duration::from_nanos(sent_bits * 1_000_000_000 / rate_bps);
                std::thread::sleep(due.saturating_duration_since(Instant::now()));
                if index == last {
                    wait_empty(&pipe)?;
                }
                pipe.write_all(message).context("the publisher went away")?;
                pipe.flush()?;
                sent_bits += message.len() as u64 * 8;
            }
            std::thread::sleep(hold);
            drop(pipe);
            Ok(())
        });
        Ok(Self { process, writer })
    }

    /// Waits until everything was sent and held, then closes the publisher (it does not end with its input).
    ///
    /// # Errors
    /// When the publisher ended early.
    pub fn finish(self) -> Result<()> {
        self.writer.join().map_err(|_| anyhow::anyhow!("the feeding thread panicked"))??;
        self.process.terminate(Duration::from_secs(5))?;
        Ok(())
    }
}

/// Waits until the other side has taken everything out of the pipe.
fn wait_empty(pipe: &impl AsFd) -> Result<()> {
    let deadline = Instant::now() + PIPE_TIMEOUT;
    loop {
        let mut queued_bytes: libc::c_int = 0;
        // SAFETY: the descriptor is open as long as `pipe` is borrowed, and FIONREAD writes one int to the address given.
        let answer = unsafe { libc::ioctl(pipe.as_fd().as_raw_fd(), libc::FIONREAD, &raw mut queued_bytes) };
        if answer != 0 {
            return Err(std::io::Error::last_os_error()).context("cannot ask how full the pipe is");
        }
        if queued_bytes == 0 {
            return Ok(());
        }
        if Instant::now() >= deadline {
            bail!("the publisher has not read its input for {PIPE_TIMEOUT:?}");
        }
        std::thread::sleep(PIPE_POLL);
    }
}

/// srt-live-transmit that publishes its standard input.
pub fn feed_command(uri: &str) -> Command {
    let mut command = Command::new("srt-live-transmit");
    command.args(["-chunk:1316", "-buffering:1", "-loglevel:error", "-autoreconnect:no", "file://con", uri]);
    command
}

/// srt-live-transmit that plays to its standard output.
pub fn record_command(uri: &str) -> Command {
    let mut command = Command::new("srt-live-transmit");
    command.args(["-chunk:1316", "-buffering:1", "-loglevel:error", "-autoreconnect:no", uri, "file://con"]);
    command
}

/// A viewer: srt-live-transmit that records what it plays. With `mode=listener` in the URI it is a server instead.
#[derive(Debug)]
pub struct Recorder {
    process: Process,
    file: PathBuf,
}

impl Recorder {
    /// Starts to record into the scene's file `name.ts`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(scene: &Scene, name: &str, uri: &str) -> Result<Self> {
        Self::start_command(scene, name, record_command(uri))
    }

    /// Like [`Recorder::start`], with a command that behaves as [`record_command`].
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_command(scene: &Scene, name: &str, command: Command) -> Result<Self> {
        let file = scene.path(&format!("{name}.ts"));
        let out = Stdio::from(std::fs::File::create(&file)?);
        Ok(Self { process: Process::spawn_with(scene, name, command, Stdio::null(), out)?, file })
    }

    /// Starts again and again until bytes come: a viewer that arrives as soon as the stream does.
    ///
    /// # Errors
    /// When none came within ten seconds.
    pub fn start_when_live(scene: &Scene, name: &str, uri: &str) -> Result<Self> {
        Self::start_command_when_live(scene, name, || record_command(uri))
    }

    /// Like [`Recorder::start_when_live`], with a command that behaves as [`record_command`].
    ///
    /// # Errors
    /// When no byte came within ten seconds.
    pub fn start_command_when_live(scene: &Scene, name: &str, command: impl Fn() -> Command) -> Result<Self> {
        let mut recorder = Self::start_command(scene, name, command())?;
        let mut started = Instant::now();
        wait_until(&format!("the first bytes for {name}"), Duration::from_secs(10), || {
            // One refused call in fifty never returns from srt-live-transmit 1.5.1, although the refusal has reached it.
            let is_stuck = started.elapsed() > Duration::from_secs(2);
            if is_stuck || recorder.process.expect_running().is_err() {
                recorder = Self::start_command(scene, name, command())?;
                started = Instant::now();
            }
            Ok((recorder.len()? > 0).then_some(()))
        })?;
        Ok(recorder)
    }

    fn len(&self) -> Result<u64> {
        Ok(std::fs::metadata(&self.file)?.len())
    }

    /// Watches the recording grow for `time`. Returns the longest time in which it did not, to about 10 ms.
    ///
    /// # Errors
    /// When the recording cannot be looked at.
    pub fn longest_gap(&self, time: Duration) -> Result<Duration> {
        let deadline = Instant::now() + time;
        let (mut longest, mut last) = (Duration::ZERO, (self.len()?, Instant::now()));
        while Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
            longest = longest.max(last.1.elapsed());
            let len = self.len()?;
            if len != last.0 {
                last = (len, Instant::now());
            }
        }
        Ok(longest)
    }

    /// The file it records into.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// The viewer itself.
    pub fn into_process(self) -> Process {
        self.process
    }

    /// Waits until nothing has come for a second, closes the viewer (which flushes its buffer) and returns what it recorded.
    ///
    /// # Errors
    /// When the stream does not end within half a minute, or the recording cannot be read.
    pub fn finish(mut self) -> Result<Vec<u8>> {
        let mut last = (0, Instant::now());
        wait_until("end of the recording", Duration::from_secs(30), || {
            let len = self.len()?;
            if len != last.0 {
                last = (len, Instant::now());
            }
            Ok((last.1.elapsed() >= Duration::from_secs(1)).then_some(()))
        })?;
        if self.process.expect_running().is_ok() {
            self.process.terminate(Duration::from_secs(5))?;
        }
        Ok(std::fs::read(&self.file)?)
    }
}

/// An encoder: ffmpeg with test picture and tone, every picture a key picture (a viewer may begin anywhere), `seconds` in real
/// time, sent to an SRT URI and, byte for byte the same, written to `file`.
///
/// It closes its SRT socket with the last packet: what libsrt has not sent by then (some ten messages) is never sent, unless
/// the URI says `linger=` and some seconds; then it waits until everything is acknowledged.
///
/// # Errors
/// When it cannot be started.
pub fn encode(scene: &Scene, uri: &str, file: &Path, seconds: u32) -> Result<Process> {
    let escaped = uri.replace(':', "\\:").replace('|', "\\|");
    let outputs = format!("[f=mpegts]{}|[f=mpegts]{escaped}", file.display());
    let mut command = Command::new("ffmpeg");
    command.args(
        "-hide_banner -v error -nostdin -re -f lavfi -i testsrc2=size=320x180:rate=25 -re -f lavfi -i"
            .split(' '),
    );
    command.args(["sine=frequency=1000", "-t", &seconds.to_string()]);
    command.args(
        "-map 0:v -map 1:a -c:v libx264 -preset ultrafast -g 1 -b:v 2M -pix_fmt yuv420p -c:a aac -f tee"
            .split(' '),
    );
    command.arg(outputs);
    Process::spawn(scene, "encoder", command)
}

/// A viewer: ffmpeg decodes what it plays and throws the pictures away; every line it prints is a complaint.
///
/// # Errors
/// When it cannot be started.
pub fn decode_live(scene: &Scene, uri: &str, seconds: u32) -> Result<Process> {
    let mut command = Command::new("ffmpeg");
    command.args([
        "-hide_banner",
        "-v",
        "error",
        "-nostdin",
        "-i",
        uri,
        "-t",
        &seconds.to_string(),
        "-f",
        "null",
        "-",
    ]);
    Process::spawn(scene, "viewer-ffmpeg", command)
}

/// Decodes a recording completely. Returns ffmpeg's complaints.
///
/// # Errors
/// When ffmpeg cannot be run or fails altogether.
pub fn decode_errors(scene: &Scene, file: &Path) -> Result<Vec<String>> {
    let mut command = Command::new("ffmpeg");
    command.args(["-hide_banner", "-v", "error", "-nostdin", "-i"]).arg(file).args(["-f", "null", "-"]);
    let done = Process::run(scene, "decode", command, Duration::from_secs(30))?;
    done.expect_code(0)?;
    Ok(done.lines.into_iter().skip(1).filter(|line| !line.is_empty()).collect())
}

/// Fails unless ffmpeg decodes the whole recording, last picture included, without a complaint.
///
/// # Errors
/// When it complains; the text holds the first complaints.
pub fn expect_decodes(scene: &Scene, recording: &[u8]) -> Result<()> {
    let file = scene.path("decoded.ts");
    std::fs::write(&file, recording)?;
    let errors = decode_errors(scene, &file)?;
    if !errors.is_empty() {
        bail!(
            "ffmpeg has {} complaints about the recording: {:?}",
            errors.len(),
            &errors[..errors.len().min(5)]
        );
    }
    Ok(())
}

/// `srt://server?key=value&...`
pub fn uri(server: SocketAddr, query: &str) -> String {
    format!("srt://{server}?{query}")
}
