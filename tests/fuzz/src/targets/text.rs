//! Stream IDs: the name is a piece of the input, within bounds, and safe to print and to put into a path.

use bondgate::shard::stream_id::{NAME_LEN_MAX, parse};

pub fn stream_id(data: &[u8]) {
    if let Ok(request) = parse(data) {
        let name = request.name;
        assert!(name.len() <= NAME_LEN_MAX, "{name:?} is too long");
        let is_inside = name.is_empty() || data.as_ptr_range().contains(&name.as_ptr());
        assert!(is_inside, "{name:?} is not a piece of the input");
        assert!(name.bytes().all(|byte| byte.is_ascii_graphic()), "{name:?}");
        assert!(!name.split('/').any(|part| part == ".."), "{name:?}");
        // A name that came out goes in again, in the standard form, and comes out the same.
        let again = format!("#!::r={name},m=publish");
        assert_eq!(parse(again.as_bytes()).map(|again| again.name), Ok(name));
    }
}
