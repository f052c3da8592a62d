//! Configuration files: any text is either taken or refused with at least one problem, each with a place and one line of
//! text; what is taken says itself again.

use std::path::Path;

use bondgate::config::raw::Raw;
use bondgate::config::{effective, resolve};

const CORES: usize = 4;

pub fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let read = |text: &str| {
        let mut raw = Raw::default();
        raw.read_toml(Path::new("fuzz.toml"), text);
        resolve(raw, CORES)
    };
    match read(text) {
        Ok(loaded) => {
            let said = effective(&loaded.config);
            let again =
                read(&said).unwrap_or_else(|error| panic!("what is in force is refused: {error:?}\n{said}"));
            assert_eq!(again.config, loaded.config);
        }
        Err(error) => {
            assert!(!error.problems.is_empty());
            assert!(error.problems.iter().all(|problem| !problem.message.is_empty()));
            assert!(!error.to_string().is_empty());
        }
    }
}
