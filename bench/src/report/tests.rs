use super::*;
use crate::compare;
use crate::machine::{Environment, Quiet};
use crate::row::Latency;
use crate::run::{self, Run};
use crate::scenario::{Receiver, Scenario};

fn row(receiver: &str, round: u32, process_ns: f64) -> Row {
    Row {
        scenario: "made-up".into(),
        receiver: receiver.into(),
        round,
        shape: "1 x 3".into(),
        offered_pps: 1000.0,
        sent_pps: 999.0,
        delivered_pps: 998.0,
        sent: 3000,
        lost: Some(7),
        process_ns: Some(process_ns),
        latency: Some(Latency {
            p50_us: 20.0,
            p99_us: 90.0,
            p999_us: 400.0,
            max_us: 900.0,
            curve: vec![(0.0, 9.0), (0.5, 20.0), (0.99, 90.0), (0.999, 400.0), (1.0, 900.0)],
        }),
        drops: vec![("runt".into(), 2)],
        limited_by: "the offered rate".into(),
        ..Row::default()
    }
}

fn made_up(noisy: bool) -> Run {
    let mut rows = vec![
        row("bondgate", 0, 500.0),
        row("<peer>", 0, 1500.0),
        row("bondgate", 1, 520.0),
        row("<peer>", 1, 1600.0),
    ];
    if noisy {
        rows[0].quiet = Quiet { noisy: vec!["somebody \"else\"".into()], ..Quiet::default() };
    }
    Run {
        environment: Environment {
            date: "2026-01-02T03:04:05Z".into(),
            kernel: "6.1.2".into(),
            ..Environment::default()
        },
        scenario: Scenario { name: "made-up".into(), about: "Nothing real.".into(), ..Scenario::default() },
        comparisons: compare::compare(
            &rows,
            compare::Targets { cost_ratio_min: Some(3.0), ..Default::default() },
        ),
        noisy: crate::machine::reasons(rows.iter().map(|row| &row.quiet)),
        set_aside: Vec::new(),
        rows,
        searches: Vec::new(),
    }
}

#[test]
fn the_table_has_medians_spread_ratio_and_what_is_missing() {
    let text = table::render(&made_up(false));
    for wanted in [
        "510 (500-520)",
        "1550 (1500-1600)",
        "14 of 6000",
        "not measured",
        "runt 4",
        "3.04 (3.00-3.08)",
        "holds",
    ] {
        assert!(text.contains(wanted), "{wanted} is missing in\n{text}");
    }
}

#[test]
fn a_noisy_run_says_so_everywhere() {
    let run = made_up(true);
    assert!(table::render(&run).contains("NOISY, no verdict: 1 of 4 trials"));
    assert!(html::render(&run).contains("class=\"noisy\""));
    assert!(conclusion::render(&run).contains("not to be quoted"));
    assert!(!table::render(&run).contains("holds"));
}

#[test]
fn the_page_is_whole_and_self_contained() {
    let page = html::render(&made_up(false));
    assert!(page.ends_with("</body></html>\n") && page.matches("<svg").count() == 2);
    assert_eq!(page.matches("<svg").count(), page.matches("</svg>").count());
    assert!(page.contains("&lt;peer&gt;") && !page.contains("<peer>"));
    assert!(!page.contains("http") && !page.contains("<script") && !page.contains("NaN"));
    assert_eq!(page.matches("<polyline").count(), 2);
}

#[test]
fn csv_has_a_cell_per_column() {
    let run = made_up(true);
    let text = csv::render(&run.rows);
    let columns = text.lines().next().unwrap().split(',').count();
    assert_eq!(text.lines().count(), 5);
    assert_eq!(text.lines().nth(2).unwrap().split(',').count(), columns);
    assert!(text.contains("\"somebody \"\"else\"\"\""));
}

#[test]
fn a_run_is_kept_and_read_again() {
    let dir = tempfile::tempdir().unwrap();
    for noisy in [false, true] {
        let run = made_up(noisy);
        let folder = run::save(&run, dir.path()).unwrap();
        assert_eq!(folder.to_string_lossy().contains("-noisy"), noisy, "{}", folder.display());
        let again = run::load(&folder).unwrap();
        assert_eq!(again.rows, run.rows);
        for file in ["rows.csv", "report.html", "conclusion.md"] {
            assert!(folder.join(file).metadata().unwrap().len() > 100, "{file}");
        }
        assert!(folder.parent().unwrap().join("environment.json").is_file());
    }
    assert!(run::load(&dir.path().join("nothing")).is_err());
}

#[test]
fn rounds_that_were_set_aside_are_told() {
    let mut run = made_up(false);
    assert!(!table::render(&run).contains("set aside"));
    run.scenario.receivers = vec![Receiver::bondgate(), Receiver::baseline()];
    run.set_aside = vec![Row::default(); 4];
    assert!(table::render(&run).contains("2 more rounds were set aside"));
    assert!(conclusion::render(&run).contains("2 more rounds"));
}
