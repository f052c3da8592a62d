//! `[geo]`.

use super::{load, messages, sources};

#[test]
fn what_cannot_work_is_refused() {
    for (text, expected) in [
        (
            "[geo]\nallow = [\"de\"]",
            "b.toml:2:9: geo.allow: expected two letters of ISO 3166 such as \"DE\", found \"de\"; did you mean \"DE\"?",
        ),
        (
            "[geo]\nblock = [\"DE\", \"UK\"]",
            "b.toml:2:9: geo.block: expected two letters of ISO 3166 such as \"DE\", found \"UK\"; did you mean \"GB\"?",
        ),
        (
            "[geo]\nblock = [\"Germany\"]",
            "b.toml:2:9: geo.block: expected two letters of ISO 3166 such as \"DE\", found \"Germany\"",
        ),
        (
            "[geo]\nallow = \"DE\"",
            "b.toml:2:9: geo.allow: expected a list of countries such as [\"DE\", \"FR\"], found the string \"DE\"",
        ),
        (
            "[geo]\ndatabase = \"a.mmdb\"\nallow = [\"DE\"]\nblock = [\"FR\"]",
            "b.toml:4:9: geo.block: geo.allow is set too (name the countries that may come in, or those that may not)",
        ),
        (
            "[geo]\nblock = [\"DE\"]",
            "configuration: geo.database: off, but geo.block names countries (name a database of countries, for example \"/var/lib/GeoIP/GeoLite2-Country.mmdb\")",
        ),
    ] {
        assert_eq!(messages(text), expected, "{text}");
    }
}

#[test]
fn a_database_for_nothing_is_warned_about() {
    let loaded = load(&sources(&[], &["geo.database=a.mmdb"])).unwrap();
    let warnings: Vec<String> = loaded.warnings.iter().map(ToString::to_string).collect();
    assert_eq!(
        warnings,
        [
            "--set geo.database=a.mmdb: geo.database: has no effect while neither geo.allow nor geo.block names countries (name some, or set it \"off\")"
        ]
    );
}
