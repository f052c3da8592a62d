//! What the repository promises about itself: where dependencies come from, how long files are, that links in documents lead
//! somewhere.

use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// All files with one of these endings, outside of build output and hidden folders.
fn files(dir: &Path, endings: &[&str], found: &mut Vec<PathBuf>) {
    let entries = std::fs::read_dir(dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    for path in entries.map(|entry| entry.expect("a readable folder").path()) {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            files(&path, endings, found);
        } else if endings.iter().any(|ending| name.ends_with(ending)) {
            found.push(path);
        }
    }
}

#[test]
fn dependencies_come_from_one_registry() {
    let lock = read(&root().join("Cargo.lock"));
    let sources: Vec<_> = lock.lines().filter(|line| line.starts_with("source = ")).collect();
    assert!(sources.len() > 50, "only {} packages with a source", sources.len());
    assert!(sources[0].starts_with("source = \"registry+"), "{}", sources[0]);
    let foreign: Vec<_> = sources.iter().filter(|line| **line != sources[0]).collect();
    assert!(foreign.is_empty(), "{foreign:?}");
}

#[test]
fn no_file_is_too_long() {
    assert!(read(&root().join("README.md")).lines().count() < 150);
    let mut sources = Vec::new();
    files(&root(), &[".rs"], &mut sources);
    assert!(sources.len() > 50, "only {} sources found", sources.len());
    let long: Vec<_> = sources
        .iter()
        .map(|path| (path, read(path).lines().count()))
        .filter(|(_, lines)| *lines > 900)
        .collect();
    assert!(long.is_empty(), "cut these by theme: {long:?}");
}

#[test]
fn links_in_documents_lead_somewhere() {
    let mut documents = Vec::new();
    files(&root(), &[".md"], &mut documents);
    let mut links = 0;
    let mut broken = Vec::new();
    for document in &documents {
        let text = read(document);
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if target.contains("://") || target.starts_with('#') {
                continue;
            }
            links += 1;
            let file = target.split('#').next().unwrap_or_default();
            if !document.parent().is_some_and(|dir| dir.join(file).exists()) {
                broken.push((document.clone(), target.to_owned()));
            }
        }
    }
    assert!(links > 10, "only {links} links found");
    assert!(broken.is_empty(), "{broken:?}");
}

/// Built for the machine it is built on, hashing was once a hundred times slower on another (see CONTRIBUTING.md), and the
/// binary does not start on an older one.
#[test]
fn nothing_is_built_for_this_machine_alone() {
    let is_native = |text: &str| text.contains("target-cpu=native") || text.contains("target-cpu = native");
    let mut scripts: Vec<PathBuf> = Vec::new();
    files(&root(), &[".toml", ".sh", ".yml", ".yaml", "Dockerfile", "Makefile"], &mut scripts);
    for hidden in [".ci", ".cargo", ".github"].map(|name| root().join(name)) {
        if hidden.is_dir() {
            files(&hidden, &[""], &mut scripts);
        }
    }
    assert!(scripts.iter().any(|path| path.ends_with(".ci/run")), "{scripts:?}");
    let native: Vec<_> = scripts.iter().filter(|path| is_native(&read(path))).collect();
    assert!(native.is_empty(), "{native:?}");
    for name in ["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "CARGO_BUILD_RUSTFLAGS"] {
        let flags = std::env::var(name).unwrap_or_default().replace('\u{1f}', " ");
        assert!(!is_native(&flags), "{name}={flags}");
    }
    // Set in a configuration outside of the repository, it shows in what the compiler was allowed to use.
    const { assert!(!cfg!(target_feature = "avx512f"), "built for a processor with AVX-512 only") }
}
