//! First stage: what was typed, key by key, with the place of each value. Nothing is interpreted here.
//!
//! Promise: every key in the result is in the table of keys; every other one is reported with its place and the
//! nearest key that exists. Reading goes on after a problem, so that all of them are reported at once.

use std::ops::Range;
use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

use super::error::{Place, Problem};
use super::keys::{KEYS, Key};
use super::value::Value;

/// One assignment, as typed.
pub struct Assignment {
    /// The key it is for.
    pub key: &'static Key,
    /// The value.
    pub value: Value,
    /// Where the value stands.
    pub place: Place,
}

/// The assignments of all sources, weakest first, and what was wrong with reading them.
#[derive(Default)]
pub struct Raw {
    /// In order of precedence: a later one for the same key wins.
    pub assignments: Vec<Assignment>,
    /// Problems found so far.
    pub problems: Vec<Problem>,
    /// A file was not valid TOML, so keys may be missing from `assignments`.
    pub incomplete: bool,
}

impl Raw {
    /// Reads a configuration file.
    pub fn read_file(&mut self, path: &Path) {
        let whole = |message: String, help: &str| Problem {
            place: Place::File { path: path.to_owned(), line: 0, column: 0 },
            key: String::new(),
            message,
            help: help.to_owned(),
        };
        match std::fs::read(path) {
            Ok(bytes) => match std::str::from_utf8(&bytes) {
                Ok(text) => self.read_toml(path, text),
                Err(error) => {
                    let upto = String::from_utf8_lossy(bytes.get(..error.valid_up_to()).unwrap_or_default());
                    self.incomplete = true;
                    self.problems.push(Problem {
                        place: place(path, &upto, upto.len()),
                        key: String::new(),
                        message: "not valid UTF-8 text".to_owned(),
                        help: "save the file as UTF-8".to_owned(),
                    });
                }
            },
            Err(error) => {
                self.incomplete = true;
                let help = match error.kind() {
                    std::io::ErrorKind::NotFound => "write one with `bondgate init`, or leave out --config",
                    std::io::ErrorKind::PermissionDenied => {
                        "the user bondgate runs as must be able to read it"
                    }
                    _ => "",
                };
                self.problems.push(whole(format!("cannot be read: {error}"), help));
            }
        }
    }

    /// Reads the text of a configuration file; `path` is only shown.
    pub fn read_toml(&mut self, path: &Path, text: &str) {
        let (table, errors) = DeTable::parse_recoverable(text);
        let mut reader = FileReader { path, text, found: Vec::new(), problems: Vec::new() };
        reader.document(table.get_ref());
        let FileReader { mut found, mut problems, .. } = reader;

        // After a syntax error the parser goes on as well as it can. One report per line is enough, and what it made
        // of a broken line is not worth a second one.
        let mut broken_lines = Vec::new();
        for error in errors {
            let offset = error.span().map_or(text.len(), |span| span.start);
            let place = place(path, text, offset);
            let line = line_of(&place);
            if broken_lines.contains(&line) {
                continue;
            }
            problems.retain(|problem| line_of(&problem.place) != line);
            found.retain(|assignment| line_of(&assignment.place) != line);
            broken_lines.push(line);
            let at_end = text.get(offset..).is_none_or(|rest| rest.trim().is_empty());
            problems.push(Problem {
                place,
                key: String::new(),
                message: format!("not valid TOML: {}", error.message()),
                help: if at_end {
                    "the file ends too early; was it truncated?".to_owned()
                } else {
                    String::new()
                },
            });
        }
        self.incomplete |= !broken_lines.is_empty();
        problems.sort_by(|a, b| a.place.cmp(&b.place));
        self.problems.append(&mut problems);
        self.assignments.append(&mut found);
    }

    /// Reads `BONDGATE__SECTION__KEY` variables; others are ignored.
    pub fn read_env<'a>(&mut self, variables: impl IntoIterator<Item = (&'a str, &'a str)>) {
        const PREFIX: &str = "BONDGATE__";
        for (name, text) in variables {
            let Some(rest) = name.strip_prefix(PREFIX) else { continue };
            let path = rest.replace("__", ".").to_ascii_lowercase();
            let spelled = |key: &Key| format!("{PREFIX}{}", key.path.replace('.', "__").to_ascii_uppercase());
            self.read_text(Place::Env(name.to_owned()), &path, text, spelled);
        }
    }

    /// Reads one `section.key=value`, as `--set` takes it; `flag` is how the user typed it.
    pub fn read_flag(&mut self, flag: &str, assignment: &str) {
        let place = Place::Flag(format!("{flag} {assignment}"));
        match assignment.split_once('=') {
            Some((path, text)) => self.read_text(place, path.trim(), text, |key| key.path.to_owned()),
            None => self.problems.push(Problem {
                place,
                key: String::new(),
                message: "no `=` in it".to_owned(),
                help: "write section.key=value".to_owned(),
            }),
        }
    }

    /// Takes an untyped text for the key `path`; `spelled` shows a key the way this source writes it.
    pub fn read_text(&mut self, place: Place, path: &str, text: &str, spelled: impl Fn(&Key) -> String) {
        match Key::find(path) {
            Some(key) => {
                let value = Value::from_text(text, key.kind());
                self.assignments.push(Assignment { key, value, place });
            }
            None => self.problems.push(Problem {
                place,
                key: path.to_owned(),
                message: "unknown key".to_owned(),
                help: nearest_key(path).map_or_else(
                    || "`bondgate check-config --print-effective` lists all keys".to_owned(),
                    |key| format!("did you mean {}?", spelled(key)),
                ),
            }),
        }
    }
}

struct FileReader<'a> {
    path: &'a Path,
    text: &'a str,
    found: Vec<Assignment>,
    problems: Vec<Problem>,
}

impl FileReader<'_> {
    fn document(&mut self, document: &DeTable<'_>) {
        for (name, value) in document {
            let section = name.get_ref().as_ref();
            if !KEYS.iter().any(|key| key.section() == section) {
                self.unknown_section(name.span(), section, value.get_ref());
                continue;
            }
            let DeValue::Table(table) = value.get_ref() else {
                let message = format!("expected a section, found {}", Value::from_toml(value.get_ref()));
                self.problem(value.span(), section, message, format!("write [{section}] and its keys below"));
                continue;
            };
            for (name, value) in table {
                self.entry(section, name.span(), name.get_ref(), value.span(), value.get_ref());
            }
        }
    }

    fn entry(
        &mut self,
        section: &str,
        at: Range<usize>,
        name: &str,
        value_at: Range<usize>,
        value: &DeValue<'_>,
    ) {
        let path = format!("{section}.{name}");
        if let Some(key) = Key::find(&path) {
            let place = place(self.path, self.text, value_at.start);
            self.found.push(Assignment { key, value: Value::from_toml(value), place });
            return;
        }
        let of_section = KEYS.iter().filter(|key| key.section() == section);
        let help = if let Some(key) = nearest(name, of_section.clone(), Key::name) {
            format!("did you mean {}?", key.name())
        } else if let Some(key) = KEYS.iter().find(|key| key.name() == name) {
            format!("{name} belongs into [{}]", key.section())
        } else {
            let names: Vec<&str> = of_section.map(Key::name).collect();
            format!("[{section}] has {}", names.join(", "))
        };
        self.problem(at, &path, "unknown key".to_owned(), help);
    }

    fn unknown_section(&mut self, at: Range<usize>, name: &str, value: &DeValue<'_>) {
        let mut sections: Vec<&str> = KEYS.iter().map(Key::section).collect();
        sections.dedup();
        if matches!(value, DeValue::Table(_)) {
            let help = nearest(name, sections.iter(), |section| section).map_or_else(
                || format!("there are {}", sections.join(", ")),
                |section| format!("did you mean [{section}]?"),
            );
            self.problem(at, name, "unknown section".to_owned(), help);
            return;
        }
        let homes: Vec<String> =
            KEYS.iter().filter(|key| key.name() == name).map(|key| format!("[{}]", key.section())).collect();
        let help = if homes.is_empty() {
            "every key belongs to a section such as [srtla]".to_owned()
        } else {
            format!("{name} belongs into {}", homes.join(" or "))
        };
        self.problem(at, name, "unknown key outside of any section".to_owned(), help);
    }

    fn problem(&mut self, at: Range<usize>, key: &str, message: String, help: String) {
        let place = place(self.path, self.text, at.start);
        self.problems.push(Problem { place, key: key.to_owned(), message, help });
    }
}

/// Turns a byte offset into line and column.
fn place(path: &Path, text: &str, offset: usize) -> Place {
    let before = text.get(..offset.min(text.len())).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    Place::File {
        path: PathBuf::from(path),
        line: before.matches('\n').count() + 1,
        column: before.get(line_start..).unwrap_or_default().chars().count() + 1,
    }
}

const fn line_of(place: &Place) -> usize {
    match place {
        Place::File { line, .. } => *line,
        _ => 0,
    }
}

/// The key whose path, or whose name alone, is most like `path`.
fn nearest_key(path: &str) -> Option<&'static Key> {
    nearest(path, KEYS.iter(), |key| key.path).or_else(|| {
        let name = path.rsplit('.').next().unwrap_or(path);
        KEYS.iter().find(|key| key.name() == name)
    })
}

/// The candidate most like `typed`, if any is like it at all.
pub fn nearest<'a, T: Copy>(
    typed: &str,
    candidates: impl Iterator<Item = T>,
    name: impl Fn(T) -> &'a str,
) -> Option<T> {
    candidates
        .map(|candidate| (strsim::damerau_levenshtein(typed, name(candidate)), candidate))
        .filter(|(distance, candidate)| *distance <= 1.max(name(*candidate).len() / 3))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}
