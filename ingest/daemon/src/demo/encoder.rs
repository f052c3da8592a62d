//! The demo's encoder: ffmpeg with a test picture if it is installed, the built-in stream otherwise. Hands over
//! payloads of seven transport stream packets in real time to a sink, on a thread of its own.
//!
//! Promises: a payload counts as handed over when the sink gets it, not before; `stop` (or dropping) ends the thread
//! and the ffmpeg process, and after it no payload comes any more.

use std::io::{self, Read};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Instant;

use bytes::Bytes;

use super::ts::{PAYLOAD_LEN, TsGenerator};

/// Rate of the built-in stream, and about that of ffmpeg's.
pub const RATE_BPS: u64 = 3_000_000;

/// Where the payloads go. Called from the encoder's thread.
pub type Sink = Box<dyn FnMut(Bytes) + Send>;

/// What the stream is made by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// ffmpeg with the H.264 encoder x264.
    FfmpegH264,
    /// ffmpeg with its own MPEG-2 encoder, for builds without x264.
    FfmpegMpeg2,
    /// [`TsGenerator`].
    BuiltIn,
}

impl Source {
    /// The best source this machine has.
    pub fn find() -> Self {
        let output = Command::new("ffmpeg")
            .args(["-hide_banner", "-nostdin", "-v", "error", "-encoders"])
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .output();
        let Ok(output) = output else { return Self::BuiltIn };
        let list = String::from_utf8_lossy(&output.stdout);
        let has = |name: &str| list.lines().any(|line| line.split_whitespace().nth(1) == Some(name));
        match (output.status.success(), has("libx264"), has("mpeg2video")) {
            (true, true, _) => Self::FfmpegH264,
            (true, false, true) => Self::FfmpegMpeg2,
            _ => Self::BuiltIn,
        }
    }

    /// For the headline.
    pub fn describe(self) -> &'static str {
        match self {
            Self::FfmpegH264 => "ffmpeg test picture, H.264 640x360, AAC tone",
            Self::FfmpegMpeg2 => "ffmpeg test picture, MPEG-2 640x360, MP2 tone",
            Self::BuiltIn => "built-in MPEG-TS (silent audio, null packets)",
        }
    }

    fn ffmpeg_codecs(self) -> &'static str {
        match self {
            Self::FfmpegMpeg2 => "-c:v mpeg2video -b:v 2700k -maxrate 2700k -bufsize 2700k -c:a mp2",
            _ => {
                "-c:v libx264 -preset ultrafast -tune zerolatency -threads 1 \
                 -b:v 2700k -maxrate 2700k -bufsize 540k -c:a aac"
            }
        }
    }
}

/// A running encoder.
#[derive(Debug)]
pub struct Encoder {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    child: Option<Child>,
}

impl Encoder {
    /// Starts to hand over payloads, the first one at once (ffmpeg: when it has one).
    ///
    /// # Errors
    /// When ffmpeg or the thread cannot be started.
    pub fn start(source: Source, sink: Sink) -> io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&stop);
        let mut child = match source {
            Source::BuiltIn => None,
            Source::FfmpegH264 | Source::FfmpegMpeg2 => Some(ffmpeg(source).spawn()?),
        };
        let builder = std::thread::Builder::new().name("encoder".to_owned());
        let thread = match child.as_mut().and_then(|child| child.stdout.take()) {
            Some(pipe) => builder.spawn(move || read(pipe, &flag, sink)),
            None => builder.spawn(move || generate(&flag, sink)),
        };
        let mut encoder = Self { stop, thread: None, child };
        encoder.thread = Some(thread?); // on failure the half-made encoder is dropped, and ffmpeg with it
        Ok(encoder)
    }

    /// Whether the encoder has ended although nobody stopped it.
    pub fn has_ended(&self) -> bool {
        self.thread.as_ref().is_some_and(JoinHandle::is_finished)
    }

    /// Ends it. Returns what ffmpeg complained about, if it did.
    pub fn stop(&mut self) -> Option<String> {
        self.stop.store(true, Ordering::Relaxed);
        let complaint = self.child.take().and_then(|mut child| {
            // An ffmpeg that is gone already cannot be killed, and need not be.
            let _ = child.kill();
            let _ = child.wait();
            let mut text = String::new();
            child.stderr.take()?.take(4096).read_to_string(&mut text).ok()?;
            let line = text.lines().find(|line| !line.trim().is_empty())?;
            Some(line.trim().to_owned())
        });
        if let Some(thread) = self.thread.take() {
            // A panic of that thread has been reported by the panic hook; the ledger shows what is missing.
            let _ = thread.join();
        }
        complaint
    }
}

impl Drop for Encoder {
    fn drop(&mut self) {
        self.stop();
    }
}

fn ffmpeg(source: Source) -> Command {
    let mut command = Command::new("ffmpeg");
    command.args("-hide_banner -nostdin -v error".split_whitespace());
    command.args("-re -f lavfi -i testsrc2=size=640x360:rate=30".split_whitespace());
    command.args("-re -f lavfi -i sine=frequency=440:beep_factor=4:sample_rate=48000".split_whitespace());
    command.args("-pix_fmt yuv420p -g 30 -b:a 128k".split_whitespace());
    command.args(source.ffmpeg_codecs().split_whitespace());
    command.args("-f mpegts -flush_packets 1 pipe:1".split_whitespace());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    // A group of its own: Ctrl-C on the terminal is for us, and we end ffmpeg.
    command.process_group(0);
    command
}

/// Cuts ffmpeg's output into payloads. A last incomplete one is never handed over.
fn read(mut pipe: ChildStdout, stop: &AtomicBool, mut sink: Sink) {
    let mut payload = [0; PAYLOAD_LEN];
    while pipe.read_exact(&mut payload).is_ok() && !stop.load(Ordering::Relaxed) {
        sink(Bytes::copy_from_slice(&payload));
    }
}

fn generate(stop: &AtomicBool, mut sink: Sink) {
    let start = Instant::now();
    let mut generator = TsGenerator::new(RATE_BPS);
    while !stop.load(Ordering::Relaxed) {
        std::thread::sleep((start + generator.due()).saturating_duration_since(Instant::now()));
        sink(Bytes::copy_from_slice(&generator.next_payload()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;
    use std::time::Duration;

    #[test]
    fn the_built_in_stream_comes_in_real_time_and_ends_when_told() {
        let (tx, rx) = mpsc::channel();
        let mut encoder =
            Encoder::start(Source::BuiltIn, Box::new(move |payload| drop(tx.send(payload)))).unwrap();
        let mut generator = TsGenerator::new(RATE_BPS);
        let start = Instant::now();
        let mut due = Duration::ZERO;
        for _ in 0..100 {
            due = generator.due();
            assert_eq!(rx.recv_timeout(Duration::from_secs(10)).unwrap()[..], generator.next_payload());
        }
        assert!(
            start.elapsed() >= due.saturating_sub(Duration::from_millis(50)),
            "{:?} {due:?}",
            start.elapsed()
        );
        assert!(!encoder.has_ended());
        assert_eq!(encoder.stop(), None);
        assert!(rx.iter().count() < 100, "the sink is dropped and nothing follows");
    }
}
