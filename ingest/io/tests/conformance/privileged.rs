//! What an ordinary host and loopback never do: forbid `io_uring`, fill a send queue, refuse segments. The last two enter a network
//! namespace of its own with a veth pair that leads nowhere, so it needs root, `ip` and `tc`; without them it is skipped.

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use bondgate_io::socket::{BindOptions, connect_udp};
use bondgate_io::{Backend, Choice, Limits, Role};
use libtest_mimic::Failed;

use crate::rig::{Rig, Variant, ensure, ensure_eq, pattern};

/// A queue on `d0` that takes everything and lets next to nothing out.
const SLOW: &str = "qdisc add dev d0 root tbf rate 8kbit burst 2000 limit 10000000";

/// The tests of this module.
pub const NAMES: &[&str] = &["full_send_queue", "segmentation_refused"];

/// Why these tests cannot run here, if they cannot.
pub fn missing() -> Option<String> {
    let trial = std::thread::spawn(|| enter_namespace(&["link add d0 type veth peer name d1"], &[SLOW]));
    match trial.join() {
        Ok(Ok(())) => None,
        Ok(Err(e)) => Some(format!("no network namespace of its own: {e}")),
        Err(_) => Some("no network namespace of its own".to_owned()),
    }
}

/// Moves this thread into a new network namespace and runs `ip` and `tc` there.
fn enter_namespace(ip: &[&str], tc: &[&str]) -> Result<(), String> {
    // SAFETY: affects only the calling thread's view of the network.
    if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
        return Err(std::io::Error::last_os_error().to_string());
    }
    let commands = ip.iter().map(|line| ("ip", line)).chain(tc.iter().map(|line| ("tc", line)));
    for (program, line) in commands {
        let output =
            Command::new(program).args(line.split(' ')).output().map_err(|e| format!("{program}: {e}"))?;
        if !output.status.success() {
            return Err(format!("{program} {line}: {}", String::from_utf8_lossy(&output.stderr).trim()));
        }
    }
    Ok(())
}

/// Runs a test on a thread of its own in a namespace with the device `d0` (10.9.0.1/24) of the given MTU.
fn on_veth(mtu: u32, tc: &[&str], test: impl FnOnce() -> Result<(), Failed> + Send) -> Result<(), Failed> {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let add = format!("link add d0 mtu {mtu} type veth peer name d1");
            let ip = [
                &add,
                "addr add 10.9.0.1/24 dev d0",
                "link set d0 up",
                "link set d1 up",
                "neigh add 10.9.0.2 lladdr 02:00:00:00:00:02 dev d0",
            ];
            enter_namespace(&ip, tc).map_err(Failed::from)?;
            test()
        });
        thread.join().map_err(|_| "the test panicked")?
    })
}

fn far() -> SocketAddr {
    SocketAddr::from(([10, 9, 0, 2], 9000))
}

/// A queue that hardly moves fills the socket's send buffer: what does not fit is counted, at once, and never waited for.
pub fn full_send_queue(variant: &Variant) -> Result<(), Failed> {
    on_veth(1500, &[SLOW], || {
        for gso in [false, true] {
            let mut rig = Rig::with(variant, Limits { gso, ..Limits::default() })?;
            let options = BindOptions { send_buf: 100_000, ..BindOptions::default() };
            let socket = rig.backend.add(connect_udp(far(), None, &options)?, Role::Connected)?;
            for round in 0..10 {
                rig.backend.receive(Some(Duration::ZERO))?;
                for seed in 0..100 {
                    rig.backend.send(socket, None, &pattern(round * 100 + seed, 1316));
                }
                rig.backend.flush();
            }
            let counters = *rig.backend.counters();
            ensure(counters.tx_would_block > 500, &format!("the queue was meant to fill: {counters:?}"))?;
            ensure(counters.tx_datagrams > 0, "some fitted")?;
            ensure_eq(counters.tx_datagrams + counters.tx_would_block, 1000, "each is counted once")?;
            ensure_eq(counters.tx_errors, 0, "a full queue is not an error")?;
            ensure(rig.backend.next_error().is_none(), "and is not reported")?;
        }
        Ok(())
    })
}

/// Segments longer than the route's MTU are refused by the kernel: the datagrams then go one by one (in fragments).
pub fn segmentation_refused(variant: &Variant) -> Result<(), Failed> {
    on_veth(1280, &[], || {
        let mut rig = Rig::new(variant)?;
        let socket = rig.backend.add(connect_udp(far(), None, &BindOptions::default())?, Role::Connected)?;
        for _ in 0..3 {
            rig.backend.receive(Some(Duration::ZERO))?;
            for seed in 0..20 {
                rig.backend.send(socket, None, &pattern(seed, 1316));
            }
            rig.backend.flush();
        }
        let counters = *rig.backend.counters();
        let errors: Vec<_> = std::iter::from_fn(|| rig.backend.next_error()).collect();
        ensure_eq(counters.tx_datagrams, 60, &format!("all were sent; {errors:?}"))?;
        ensure_eq(counters.tx_gso_fallbacks, 1, "given up once and for all")?;
        ensure_eq((counters.tx_gso_messages, counters.tx_gso_datagrams), (0, 0), "none segmented")?;
        ensure_eq(counters.tx_errors + counters.tx_would_block, 0, "none lost")
    })
}

/// Where a sandbox forbids `io_uring`, `Auto` falls back and says so, and asking for `uring` is refused with the reason.
pub fn falls_back_where_io_uring_is_forbidden() -> Result<(), Failed> {
    for (errno, word) in [(libc::EPERM, "forbids"), (libc::ENOSYS, "no io_uring"), (libc::EINVAL, "6.1")] {
        let thread = std::thread::spawn(move || -> Result<(), Failed> {
            forbid_io_uring(errno)?;
            let (backend, reason) = bondgate_io::open(Choice::Auto, &Limits::default())?;
            ensure_eq(backend.name(), "mmsg", "fell back")?;
            ensure(reason.starts_with("mmsg: uring is not available") && reason.contains(word), &reason)?;
            let Err(error) = bondgate_io::open(Choice::Uring, &Limits::default()) else {
                return Err("uring was opened all the same".into());
            };
            ensure_eq(error.kind(), std::io::ErrorKind::Unsupported, "refused")
        });
        thread.join().map_err(|_| "the test panicked")??;
    }
    Ok(())
}

/// Lets `io_uring_setup` fail with `errno` on this thread from now on (a seccomp filter, which needs no privilege).
fn forbid_io_uring(errno: i32) -> Result<(), Failed> {
    let instruction = |code: u32, jt, jf, k| libc::sock_filter { code: code as u16, jt, jf, k };
    let mut filter = [
        instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0), // the number of the system call
        instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, libc::SYS_io_uring_setup as u32),
        instruction(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ERRNO | errno as u32),
        instruction(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: both affect only this thread; the kernel copies the program, which is alive, before it returns.
    let result = unsafe {
        match libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) {
            0 => libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program),
            failed => failed,
        }
    };
    if result == 0 { Ok(()) } else { Err(std::io::Error::last_os_error().into()) }
}
