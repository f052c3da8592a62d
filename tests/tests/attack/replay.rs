//! What was recorded is worth nothing later, elsewhere, or after its time; and no clock can be played with. The receiver alone,
//! on a virtual clock.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bondgate_proto::receiver::Verdict;
use bondgate_tests::attack::client::{Device, KEEPALIVE};
use bondgate_tests::attack::core::{Core, admission, credentials};
use bondgate_tests::scene::Scene;

use crate::figure;

fn home() -> SocketAddr {
    ([192, 0, 2, 1], 5000).into()
}

fn elsewhere() -> SocketAddr {
    ([198, 51, 100, 7], 6000).into()
}

/// Everything an observer of one registration and of a minute of keepalives has.
struct Tape {
    m1: Vec<u8>,
    m3: Vec<u8>,
    m4: Vec<u8>,
    keepalives: Vec<Vec<u8>>,
}

impl Tape {
    fn packets(&self) -> impl Iterator<Item = &Vec<u8>> {
        [&self.m1, &self.m3, &self.m4].into_iter().chain(&self.keepalives)
    }
}

/// A device that is up, and the tape of it.
fn recorded(core: &mut Core, device: &mut Device) -> Result<Tape> {
    let wall_ms = core.wall_ms();
    let hello = device.hello(1, wall_ms);
    let m2 = core.ask(home(), hello.packet());
    let join = hello.answer(&device.credentials, &m2.first().context("no M2")?.1, wall_ms)?;
    let m4 = core.ask(home(), join.packet()).first().context("no M4")?.1.clone();
    let bondgate_auth::sa1::sender::Outcome::Up(up) = join.confirm(&device.credentials, &m4)? else {
        anyhow::bail!("refused")
    };
    let (mut sealer, _) = up.keys.sender_ends();
    let mut keepalives = Vec::new();
    for _ in 0..5 {
        let (sealed, len) = sealer.seal(&KEEPALIVE).context("no trailer")?;
        let said = core.ask(home(), &sealed[..len]);
        ensure!(said.len() == 1, "a keepalive was not echoed");
        keepalives.push(sealed[..len].to_vec());
        core.advance(Duration::from_secs(1));
    }
    Ok(Tape { m1: hello.packet().to_vec(), m3: join.packet().to_vec(), m4, keepalives })
}

/// Plays the tape from an address. Returns how many answers it drew; none may be longer than what drew it, and what the
/// receiver holds must not change.
fn play(core: &mut Core, tape: &Tape, from: SocketAddr, what: &str) -> Result<usize> {
    let before = core.held();
    let mut answers = 0;
    for packet in tape.packets() {
        let said = core.ask(from, packet);
        ensure!(
            said.iter().all(|(to, bytes)| *to == from && bytes.len() <= packet.len()),
            "{what}: {said:?}"
        );
        answers += said.len();
    }
    ensure!(core.held() == before, "{what}: {:?} became {:?}", before, core.held());
    Ok(answers)
}

/// A-04 at every moment: the same address, another, after 31 s, after two minutes, after a move, a restart and a revocation.
pub fn at_any_time(_: &Scene) -> Result<()> {
    let mut core = Core::new(admission(&[1], false));
    let mut device = Device::with(credentials(1), 1);
    let tape = recorded(&mut core, &mut device)?;
    let mut table = Vec::new();

    // Same address: M4 again, and nothing else.
    let same = core.ask(home(), &tape.m3);
    ensure!(same.len() == 1 && same[0].1 == tape.m4, "a repeated join is not answered as before");
    table.push(("same address", play(&mut core, &tape, home(), "same address")?, 1));
    table.push(("another address", play(&mut core, &tape, elsewhere(), "another address")?, 1));
    for n in 0..1000u16 {
        let from = ([203, 0, 113, (n % 250) as u8], 1000 + n).into();
        table[1].1 = table[1].1.max(play(&mut core, &tape, from, "many addresses")?);
    }

    // The link lives on while time goes by.
    let keep = |core: &mut Core, device: &mut Device, seconds: u64| -> Result<()> {
        for _ in 0..seconds {
            core.advance(Duration::from_secs(1));
            if (core.wall_ms() / 1000).is_multiple_of(5) {
                core.register(device, home(), 1).context("the device lost its own link")?;
            }
        }
        Ok(())
    };
    keep(&mut core, &mut device, 31)?;
    table.push(("after 31 s", play(&mut core, &tape, home(), "31 s")?, 1));
    table.push(("after 31 s, elsewhere", play(&mut core, &tape, elsewhere(), "31 s, elsewhere")?, 1));

    // A move; the tape of the old place must not drag the link back.
    let moved: SocketAddr = ([192, 0, 2, 99], 7000).into();
    core.advance(Duration::from_secs(1));
    core.register(&mut device, moved, 1).context("no move")?;
    ensure!(core.held() == [vec![moved]], "{:?}", core.held());
    table.push(("after a move", play(&mut core, &tape, home(), "after a move")?, 1));

    // Everything of the tape is older than 90 s and than the memory for M1.
    for _ in 0..130 {
        core.advance(Duration::from_secs(1));
    }
    ensure!(core.held().is_empty(), "a silent group stays");
    table.push(("after 2 min, group gone", play(&mut core, &tape, elsewhere(), "2 min")?, 1));

    // A restart forgets what was seen: one M2 each at most, no link.
    let tape = recorded(&mut core, &mut device)?;
    core.restart();
    table.push(("after a restart", play(&mut core, &tape, elsewhere(), "restart")?, 2));
    table.push(("after a restart, same address", play(&mut core, &tape, home(), "restart, home")?, 1));
    ensure!(core.held().is_empty(), "a replay made a group");

    // A revocation: silence.
    let tape = recorded(&mut core, &mut device)?;
    core.set_admission(admission(&[], false));
    core.advance(Duration::from_millis(20));
    ensure!(core.held().is_empty(), "a revoked key holds a group");
    table.push(("after revocation", play(&mut core, &tape, home(), "revoked")?, 0));

    let shown: Vec<_> = table.iter().map(|(what, answers, _)| format!("{what}: {answers}")).collect();
    figure("A-04 core", format_args!("answers to the tape, no change of state: {}", shown.join(", ")));
    for (what, answers, most) in table {
        ensure!(answers <= most, "{what}: {answers} answers, at most {most} are explained");
    }
    Ok(())
}

/// A-06b: a wrong clock costs a refusal and nothing else, a time from the future poisons no key, and the server's time is not
/// believed for anything.
pub fn clock_games(_: &Scene) -> Result<()> {
    let mut core = Core::new(admission(&[1], false));
    let mut device = Device::with(credentials(1), 1);
    let now = core.wall_ms();
    for (what, time) in [
        ("1970", 1),
        ("2106", 4_294_967_296_000),
        ("the end of time", u64::MAX),
        ("an hour ahead", now + 3_600_000),
        ("no clock", 0),
    ] {
        let hello = device.hello(1, time);
        let said = core.ask(home(), hello.packet());
        let refusal = said.first().and_then(|(_, bytes)| hello.refused(&device.credentials, bytes).ok());
        let code = refusal.with_context(|| format!("{what}: not told what is wrong: {said:?}"))?.code;
        ensure!(code == bondgate_auth::sa1::wire::RefusalCode::ClockRequired, "{what}: {code:?}");
        core.advance(Duration::from_millis(500));
    }
    core.register(&mut device, home(), 1).context("a time from the future has poisoned the key")?;
    core.advance(Duration::from_secs(1));
    // Its M3 may say any time: the cookie is what counts.
    let hello = device.hello(2, core.wall_ms());
    let m2 = core.ask(home(), hello.packet());
    let late = hello.answer(&device.credentials, &m2.first().context("no M2")?.1, 1)?;
    ensure!(
        core.ask(home(), late.packet()).len() == 1,
        "a join with a wrong time and a good cookie was not taken"
    );

    // A receiver that lies about the time changes M2, and its MAC is wrong.
    let hello = device.hello(3, core.wall_ms());
    let mut m2 = core.ask(home(), hello.packet()).first().context("no M2")?.1.clone();
    m2[140] ^= 1;
    ensure!(hello.answer(&device.credentials, &m2, core.wall_ms()).is_err(), "a changed time was believed");
    let verdict = core.feed(elsewhere(), &m2);
    ensure!(matches!(verdict, Verdict::Drop(_)), "M2 sent to the receiver: {verdict:?}");
    figure(
        "A-06b",
        format_args!(
            "five wrong clocks refused with code 11, then joined at once; a changed server time refused"
        ),
    );
    Ok(())
}
