//! A short run of every target from its committed seeds, and a short storm. Longer ones: `bondgate-fuzz --help`.

use bondgate_fuzz::mutate::mutate;
use bondgate_fuzz::targets::{ALL, Target};
use bondgate_fuzz::{alloc, seeds, storm};

#[global_allocator]
static ALLOCATOR: alloc::Counting = alloc::Counting;

fn smoke(name: &str) {
    let target: &Target = ALL.iter().find(|target| target.name == name).expect("a target of that name");
    let seeds = seeds::load(name).expect("seeds");
    for seed in &seeds {
        (target.run)(seed);
    }
    let mut rng = fastrand::Rng::with_seed(1);
    let mut input = Vec::new();
    for number in 0..target.smoke_iterations {
        let (a, b) = (&seeds[rng.usize(..seeds.len())], &seeds[rng.usize(..seeds.len())]);
        mutate(&mut rng, a, b, &mut input);
        let result = std::panic::catch_unwind(|| (target.run)(&input));
        assert!(result.is_ok(), "{name}: input {number} fails:\n{}", seeds::to_hex(&input));
    }
}

macro_rules! smoke_tests {
    ($($name:ident)*) => {
        $(#[test]
        fn $name() {
            smoke(stringify!($name));
        })*

        #[test]
        fn every_target_is_run() {
            assert_eq!(ALL.iter().map(|target| target.name).collect::<Vec<_>>(), [$(stringify!($name)),*]);
        }
    };
}

smoke_tests!(srtla_wire srt_packet stream_id ticket sa1_hello sa1_join sa1_sender sa1_trailer sa1_data key_text provision sealed config receiver sender srt_endpoint);

#[test]
fn storm_of_two_hundred_thousand() {
    let report = storm::run(200_000, 1).expect("the storm passes");
    assert!(report.groups > 0 && report.played > 100, "{report:?}");
    // The mutants reach the checks they are meant for.
    for reason in ["runt", "oversize", "bad_length", "unexpected_srtla", "not_member"] {
        assert!(
            report.receiver_drops.iter().any(|(name, _)| *name == reason),
            "no {reason} among {report:?}"
        );
    }
}
