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
    let text_forms = said.starts_with("21 text forms\n2 URIs\n");
    if output.status.success() && text_forms && said.ends_with("4128 flips, 0 taken\nall as specified\n") {
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

fn notices(file: &str, member: &str, n: usize) -> Result<(), Failed> {
    let vectors = std::fs::read_to_string(format!("{DIR}/vectors/{file}")).unwrap();
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
    // One of every kind: a derived key, a packet, a trailer, a ticket, the fate of a datagram, the count of a reason, a text,
    // a URI, the hash of a token.
    for (file, member, n) in [
        ("sa1.json", "k_x", 0),
        ("sa1.json", "k_ck", 0),
        ("sa1.json", "m1", 0),
        ("sa1.json", "m2", 0),
        ("sa1.json", "m3", 0),
        ("sa1.json", "m4", 0),
        ("sa1.json", "nak_to_m1", 0),
        ("sa1.json", "nak_to_m3", 0),
        ("sa1.json", "sealed", 5),
        ("sa1.json", "k_data_s2c", 0),
        ("sa1.json", "trailer", 7),
        ("sa1.json", "receiver_half", 2),
        ("sa1.json", "packet", 7),
        ("sa1.json", "cookie_mac", 0),
        ("text.json", "text", 14),
        ("text.json", "payload", 0),
        ("text.json", "uri", 0),
        ("text.json", "stream_bind", 0),
        ("text.json", "hash", 0),
    ] {
        trials.push(Trial::test(format!("notices_a_changed_{member}"), move || notices(file, member, n)));
    }
    let trials = trials.into_iter().map(|trial| trial.with_ignored_flag(missing)).collect();
    libtest_mimic::run(&arguments, trials).exit();
}
