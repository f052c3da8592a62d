//! How devices, keys and tokens are shown: tables, dates, URIs and QR codes.

use std::fmt::Write as _;
use std::io::IsTerminal;

use bondgate_auth::keyring::{Key, KeyState, Provision, key_id_text};
use qrcode::render::unicode::Dense1x2;
use qrcode::{EcLevel, QrCode};
use serde_json::{Value, json};

use super::keyring_args::ProvisionArgs;
use super::print;
use crate::exit::Failure;

/// A plain table: columns two spaces apart, no lines, `-` for what is empty.
pub fn table<const N: usize>(head: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> String {
    let rows: Vec<[String; N]> = std::iter::once(head.map(str::to_owned)).chain(rows).collect();
    let width =
        |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.len().max(1)).max();
    let widths: Vec<usize> = (0..N).map(|column| width(column).unwrap_or(1)).collect();
    let mut text = String::new();
    for row in &rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            let cell = if cell.is_empty() { "-" } else { cell };
            let _ = write!(line, "{cell:<width$}  ");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// One JSON document as it is printed.
pub fn document(value: &Value) -> String {
    format!("{value:#}\n")
}

/// A moment as people read it, to the minute, UTC.
pub fn utc(ms: u64) -> String {
    let minutes = ms / 60_000;
    let (days, minute_of_day) = (minutes / 1440, minutes % 1440);
    let (year, month, day) = civil(days);
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02}", minute_of_day / 60, minute_of_day % 60)
}

/// The date of a number of days since 1970: eras of 400 years that begin in March, so that the leap day comes last.
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

/// When a key's state ends or has ended.
pub fn key_until_ms(key: &Key) -> Option<u64> {
    match key.state {
        KeyState::Active => None,
        KeyState::Retiring { until_ms } => Some(until_ms),
        KeyState::Revoked { at_ms } => Some(at_ms),
    }
}

/// A key for machines.
pub fn key_json(key: &Key, now_ms: u64) -> Value {
    json!({
        "key_id": key_id_text(&key.id),
        "state": key.standing(now_ms).name(),
        "created_ms": key.created_ms,
        "until_ms": key_until_ms(key),
        "gate_epoch": key.gate_epoch,
    })
}

/// Prints what a device registers with: the only time it is seen.
///
/// # Errors
/// stdout cannot be written.
pub fn provision(provision: &Provision, args: &ProvisionArgs, as_json: bool) -> Result<(), Failure> {
    let uri = provision.to_uri();
    if as_json {
        return print(&document(&json!({
            "device": provision.device,
            "tenant": provision.tenant,
            "stream": provision.stream,
            "server": provision.server,
            "key_id": key_id_text(&provision.key_id),
            "gate_epoch": provision.gate.map(|(epoch, _)| epoch),
            "uri": uri,
        })));
    }
    let terminal = std::io::stdout().is_terminal();
    let mut text = format!("{uri}\n");
    if args.qr || (terminal && !args.no_qr) {
        let colors = terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        text.push('\n');
        text.push_str(&qr(&uri, colors)?);
    }
    print(&text)?;
    let device = &provision.device;
    eprintln!("This is secret and not shown again: whoever has it can publish as {device}.");
    eprintln!("On the device: save it in a file, chmod 600, then: bondgate send --key-file FILE");
    Ok(())
}

/// A QR code of half blocks with its quiet zone, light on a dark terminal. With `colors` it is black on white wherever.
fn qr(text: &str, colors: bool) -> Result<String, Failure> {
    let code = QrCode::with_error_correction_level(text, EcLevel::L)
        .map_err(|error| Failure::runtime(format!("no QR code: {error}; use --no-qr")))?;
    // What is dark in the code stays dark on the terminal: the characters paint the light parts.
    let blocks = code
        .render::<Dense1x2>()
        .dark_color(Dense1x2::Light)
        .light_color(Dense1x2::Dark)
        .quiet_zone(true)
        .build();
    if !colors {
        return Ok(blocks + "\n");
    }
    let mut painted = String::new();
    for line in blocks.lines() {
        let _ = writeln!(painted, "\x1b[97;40m{line}\x1b[0m");
    }
    Ok(painted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        for (ms, shown) in [
            (0, "1970-01-01 00:00"),
            (951_782_399_999, "2000-02-28 23:59"),
            (951_782_400_000, "2000-02-29 00:00"),
            (951_868_800_000, "2000-03-01 00:00"),
            (1_709_210_096_000, "2024-02-29 12:34"),
            (1_800_000_000_000, "2027-01-15 08:00"),
            (4_107_542_399_999, "2100-02-28 23:59"),
            (4_107_542_400_000, "2100-03-01 00:00"),
        ] {
            assert_eq!(utc(ms), shown);
        }
    }

    #[test]
    fn tables_are_aligned_and_end_without_spaces() {
        let rows =
            [["cam1".to_owned(), String::new(), "x".into()], ["b".into(), "acme".into(), String::new()]];
        assert_eq!(table(["NAME", "T", "S"], rows), "NAME  T     S\ncam1  -     x\nb     acme  -\n");
    }

    #[test]
    fn a_qr_code_has_a_quiet_zone_and_fits_a_terminal() {
        let uri = "srtla://gate.example:5000?device=a&listener=bgl_".to_owned() + &"0".repeat(200);
        let plain = qr(&uri, false).unwrap();
        let lines: Vec<&str> = plain.lines().collect();
        assert!(
            lines.len() <= 36 && lines.iter().all(|line| line.chars().count() == lines[0].chars().count())
        );
        assert!(lines[0].chars().all(|c| c == '\u{2588}') && lines[1].chars().all(|c| c == '\u{2588}'));
        // The number of rows is odd: the last line holds an upper half only.
        let (last, whole) = lines.split_last().unwrap();
        assert!(whole.iter().all(|line| line.starts_with("\u{2588}\u{2588}\u{2588}\u{2588}")));
        assert!(last.chars().all(|c| c == '\u{2580}'), "{last}");
        let colored = qr(&uri, true).unwrap();
        assert!(colored.lines().all(|line| line.starts_with("\x1b[97;40m") && line.ends_with("\x1b[0m")));
    }
}
