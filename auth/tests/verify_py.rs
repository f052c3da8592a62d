//! Runs `auth/verify.py`, the independent check of the test vectors, and shows that it has teeth: a vector changed in
//! one place must make it fail. Without `python3` the tests show as ignored.
#![allow(clippy::unwrap_used, reason = "a test that unwraps nothing fails, as it should")]

use libtest_mimic::{Arguments, Failed, Trial};
use std::process::{Command, Output};

const DIR: &str = env!("CARGO_MANIFEST_DIR");

fn verify(arguments: &[&str]) -> Output {
    Command::new("python3").arg("-B").arg(format!("{DIR}/verify.py")).args(arguments).output().unwrap()
}

fn accepts_the_vectors() -> Result<(), Failed> {
    let output = verify(&[]);
    let said = String::from_utf8_lossy(&output.stdout);
    if output.status.success() && said.ends_with("4128 flips, 0 taken\nall as specified\n") {
        return Ok(());
    }
    Err(format!("{output:?}").into())
}

/// Changes the last digit of the value after the n-th occurrence of `member`.
fn changed(vectors: &str, member: &str, n: usize) -> String {
    let (at, _) = vectors.match_indices(&format!("\"{member}\": ")).nth(n).expect("such a member");
    let line = at + vectors[at..].find('\n').unwrap();
    let last = vectors[at..line].rfind(|c: char| c.is_ascii_hexdigit()).unwrap() + at;
    let digit = if &vectors[last..=last] == "0" { "1" } else { "0" };
    [&vectors[..last], digit, &vectors[last + 1..]].concat()
}

fn notices(member: &str, n: usize) -> Result<(), Failed> {
    let vectors = std::fs::read_to_string(format!("{DIR}/vectors/sa1.json")).unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), changed(&vectors, member, n)).unwrap();
    let output = verify(&[file.path().to_str().unwrap()]);
    if output.status.code() == Some(1) && String::from_utf8_lossy(&output.stdout).contains("MISMATCH") {
        return Ok(());
    }
    Err(format!("{output:?}").into())
}

fn main() {
    let arguments = Arguments::from_args();
    let missing = !Command::new("python3").arg("--version").output().is_ok_and(|o| o.status.success());
    if missing {
        eprintln!("SKIPPED verify_py: python3 not installed");
    }
    let mut trials = vec![Trial::test("accepts_the_vectors", accepts_the_vectors)];
    // One of every kind: a derived key, a packet, a trailer, a ticket, the fate of a datagram, the count of a reason.
    for (member, n) in [
        ("k_x", 0),
        ("k_ck", 0),
        ("m1", 0),
        ("m2", 0),
        ("m3", 0),
        ("m4", 0),
        ("nak_to_m1", 0),
        ("nak_to_m3", 0),
        ("sealed", 5),
        ("receiver_half", 2),
        ("packet", 7),
        ("cookie_mac", 0),
    ] {
        trials.push(Trial::test(format!("notices_a_changed_{member}"), move || notices(member, n)));
    }
    let trials = trials.into_iter().map(|trial| trial.with_ignored_flag(missing)).collect();
    libtest_mimic::run(&arguments, trials).exit();
}
