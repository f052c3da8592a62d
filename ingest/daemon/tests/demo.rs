//! `bondgate demo` as users run it, and its built-in stream before the eyes of ffprobe.
//!
//! A harness of its own, so that what needs ffmpeg is reported as ignored where there is none.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use bondgate::demo::ts::TsGenerator;
use libtest_mimic::{Arguments, Failed, Trial};

type Outcome = Result<(), Failed>;

fn main() {
    let args = Arguments::from_args();
    let has_ffmpeg = has("ffmpeg") && has("ffprobe");
    let tests = vec![
        Trial::test("two_demos_at_once_pass", two_demos_at_once_pass),
        Trial::test("ctrl_c_ends_it_at_any_time", ctrl_c_ends_it_at_any_time),
        Trial::test("keep_prints_urls_and_ends_by_ctrl_c", keep_prints_urls_and_ends_by_ctrl_c),
        Trial::test("ffmpeg_is_the_encoder_where_installed", ffmpeg_is_the_encoder)
            .with_ignored_flag(!has_ffmpeg),
        Trial::test("ffprobe_accepts_the_built_in_stream", ffprobe_accepts_the_built_in_stream)
            .with_ignored_flag(!has_ffmpeg),
    ];
    libtest_mimic::run(&args, tests).exit();
}

fn has(program: &str) -> bool {
    Command::new(program).arg("-version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
}

/// A child that does not outlive its test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail only if it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn demo(args: &[&str]) -> Result<Running, Failed> {
    let child = Command::new(env!("CARGO_BIN_EXE_bondgate"))
        .args(["demo", "--plain"])
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    Ok(Running(child))
}

impl Running {
    /// Waits for the end; returns exit code, stdout and stderr.
    fn finish(mut self, within: Duration) -> Result<(Option<i32>, String, String), Failed> {
        let deadline = Instant::now() + within;
        let status = loop {
            if let Some(status) = self.0.try_wait()? {
                break status;
            }
            if Instant::now() > deadline {
                return Err(format!("still running after {within:?}").into());
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        let (mut out, mut err) = (String::new(), String::new());
        if let Some(mut pipe) = self.0.stdout.take() {
            pipe.read_to_string(&mut out)?;
        }
        if let Some(mut pipe) = self.0.stderr.take() {
            pipe.read_to_string(&mut err)?;
        }
        Ok((status.code(), out, err))
    }

    /// Reads stdout until a line contains `text`; returns everything read.
    fn read_until(&mut self, text: &str) -> Result<String, Failed> {
        let mut reader = BufReader::new(self.0.stdout.as_mut().ok_or("no stdout")?);
        let mut all = String::new();
        loop {
            let before = all.len();
            if reader.read_line(&mut all)? == 0 {
                return Err(format!("ended before {text:?}: {all}").into());
            }
            if all[before..].contains(text) {
                return Ok(all);
            }
        }
    }

    fn interrupt(&self) -> Outcome {
        let status = Command::new("kill").args(["-INT", &self.0.id().to_string()]).status()?;
        if status.success() { Ok(()) } else { Err("kill failed".into()) }
    }
}

fn check(condition: bool, what: &str, context: &str) -> Outcome {
    if condition { Ok(()) } else { Err(format!("{what}\n{context}").into()) }
}

fn check_pass(code: Option<i32>, out: &str, err: &str) -> Outcome {
    let both = format!("{out}\n{err}");
    check(code == Some(0), "exit code is not 0", &both)?;
    for text in [
        "verdict    PASS",
        "all of them: once, in order, bit-exact",
        "killing link 2",
        "link 2 is back",
        "0 given up",
    ] {
        check(out.contains(text), &format!("{text:?} is not said"), &both)?;
    }
    // 5 s at 3 Mb/s are 1425 payloads.
    let payloads =
        out.lines().find_map(|line| line.strip_prefix("in ")?.split_whitespace().next()?.parse::<u32>().ok());
    check(payloads.is_some_and(|count| (1200..1600).contains(&count)), "not the stream of 5 s", &both)
}

fn two_demos_at_once_pass() -> Outcome {
    let demos = [
        demo(&["--seconds", "5", "--no-ffmpeg"])?,
        demo(&["--seconds", "5", "--no-ffmpeg", "--backend", "mmsg"])?,
    ];
    for demo in demos {
        let (code, out, err) = demo.finish(Duration::from_secs(40))?;
        check_pass(code, &out, &err)?;
        check(out.contains("built-in MPEG-TS"), "not the built-in stream", &out)?;
    }
    Ok(())
}

fn ffmpeg_is_the_encoder() -> Outcome {
    let (code, out, err) = demo(&["--seconds", "5"])?.finish(Duration::from_secs(40))?;
    check_pass(code, &out, &err)?;
    check(out.contains("ffmpeg test picture"), "not ffmpeg", &out)
}

fn ctrl_c_ends_it_at_any_time() -> Outcome {
    let mut demo = demo(&["--seconds", "60", "--no-ffmpeg"])?;
    let begun = demo.read_until("2 s  group")?;
    demo.interrupt()?;
    let (code, out, err) = demo.finish(Duration::from_secs(5))?;
    check(code == Some(1), "exit code is not 1", &format!("{begun}{out}\n{err}"))?;
    check(out.contains("FAIL: interrupted after"), "the verdict does not say so", &out)
}

fn keep_prints_urls_and_ends_by_ctrl_c() -> Outcome {
    let mut demo = demo(&["--seconds", "5", "--no-ffmpeg", "--keep"])?;
    let text = demo.read_until("goes over the same")?;
    check(text.contains("verdict    PASS"), "no verdict", &text)?;
    for url in ["streamid=play/demo", "streamid=publish/mine"] {
        check(text.lines().any(|line| line.contains("srt://127.0.0.1:") && line.contains(url)), url, &text)?;
    }
    check(demo.0.try_wait()?.is_none(), "it does not keep running", &text)?;
    demo.interrupt()?;
    let (code, out, err) = demo.finish(Duration::from_secs(5))?;
    check(code == Some(0), "exit code is not that of the verdict", &format!("{text}{out}\n{err}"))
}

fn ffprobe_accepts_the_built_in_stream() -> Outcome {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("stream.ts");
    let mut file = fs::File::create(&path)?;
    let mut generator = TsGenerator::new(3_000_000);
    while generator.due() < Duration::from_secs(10) {
        file.write_all(&generator.next_payload())?;
    }
    let run = |program: &str, args: &[&str]| -> Result<Output, Failed> {
        let output =
            Command::new(program).args(["-v", "warning"]).args(args).stdin(Stdio::null()).output()?;
        let complaints = String::from_utf8_lossy(&output.stderr).into_owned();
        check(
            output.status.success() && complaints.is_empty(),
            &format!("{program} complains"),
            &complaints,
        )?;
        Ok(output)
    };
    let path = path.to_str().ok_or("temporary path is not text")?;
    let entries = "stream=codec_name,sample_rate,channels,nb_read_packets:format=bit_rate";
    let args = ["-count_packets", "-show_entries", entries, "-of", "default=noprint_wrappers=1", path];
    let probe = run("ffprobe", &args)?;
    let text = String::from_utf8_lossy(&probe.stdout);
    for expected in ["codec_name=mp2", "sample_rate=48000", "channels=2", "nb_read_packets=41"] {
        check(text.contains(expected), &format!("{expected} is not said"), &text)?;
    }
    let rate = text.lines().find_map(|line| line.strip_prefix("bit_rate=")?.parse::<f64>().ok());
    check(rate.is_some_and(|rate| (2.9e6..3.15e6).contains(&rate)), "not 3 Mb/s", &text)?;
    run("ffmpeg", &["-nostdin", "-xerror", "-err_detect", "explode", "-i", path, "-f", "null", "-"])?;
    Ok(())
}
