//! What a caller asks for in its SRT stream ID: publish or play, which stream, and with which token.
//!
//! Accepts the dialects that devices and URLs in the field use: the access-control form `#!::r=NAME,m=publish`
//! (SRT draft, "SRT Access Control"), `publish/NAME` and `play/NAME`, `publish:NAME` and `read:NAME`, and a bare
//! name. Never panics and never allocates; the name it returns is a slice of the input.

pub use bondgate_auth::stream::Wish;

/// A parsed stream ID.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamRequest<'a> {
    /// Publish or play.
    pub wish: Wish,
    /// The stream's name; empty means "the default stream".
    pub name: &'a str,
    /// The token: `?token=` or `?srtauth=` behind the name, or the key `bg_t` of the access-control form.
    pub token: Option<&'a str>,
}

/// Why a stream ID cannot be used. Each maps to SRT rejection 1400 (bad request).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamIdError {
    /// Not UTF-8.
    NotText,
    /// A name may hold letters, digits and `_ - . /`, and no empty or dotted path part.
    BadName,
    /// `m=` is neither `publish` nor `request`.
    BadMode,
}

impl StreamIdError {
    /// One sentence for the log.
    pub fn explain(self) -> &'static str {
        match self {
            Self::NotText => "the stream ID is not UTF-8 text",
            Self::BadName => "a stream name may hold letters, digits, '_', '-', '.' and '/'",
            Self::BadMode => "the stream ID's m= must be publish or request",
        }
    }
}

/// Longest accepted stream name in bytes.
pub const NAME_LEN_MAX: usize = 128;

/// Keys of the query behind a name that carry the token.
const TOKEN_KEYS: [&str; 2] = ["token", "srtauth"];

/// Parses a stream ID as received (already un-reversed, trailing zeros stripped). Of a query (`?token=...&...`) behind
/// the name only the token is read.
///
/// # Errors
/// [`StreamIdError`] says what is wrong.
pub fn parse(raw: &[u8]) -> Result<StreamRequest<'_>, StreamIdError> {
    let text = std::str::from_utf8(raw).map_err(|_| StreamIdError::NotText)?;
    let (wish, name, own_token) = if let Some(keys) = text.strip_prefix("#!::") {
        access_control(keys)?
    } else {
        let publish = ["publish/", "publish:"];
        let play = ["play/", "play:", "read/", "read:", "request/", "request:"];
        let strip = |prefixes: &[&str]| prefixes.iter().find_map(|p| text.strip_prefix(*p));
        if let Some(name) = strip(&publish) {
            (Wish::Publish, name, None)
        } else if let Some(name) = strip(&play) {
            (Wish::Play, name, None)
        } else {
            (Wish::Publish, text, None)
        }
    };
    let (name, query) = name.split_once('?').unwrap_or((name, ""));
    let token = own_token.or_else(|| {
        let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        pairs.filter(|(key, _)| TOKEN_KEYS.contains(key)).map(|(_, value)| value).next()
    });
    check_name(name)?;
    Ok(StreamRequest { wish, name, token })
}

/// The `#!::` form. `m` defaults to `request` as the SRT access-control convention says; unknown keys are ignored.
fn access_control(keys: &str) -> Result<(Wish, &str, Option<&str>), StreamIdError> {
    let (mut wish, mut name, mut token) = (Wish::Play, "", None);
    for pair in keys.split(',') {
        match pair.split_once('=') {
            Some(("r", value)) => name = value,
            Some(("bg_t", value)) => token = Some(value),
            Some(("m", "publish")) => wish = Wish::Publish,
            Some(("m", "request")) => wish = Wish::Play,
            Some(("m", _)) => return Err(StreamIdError::BadMode),
            _ => {}
        }
    }
    Ok((wish, name, token))
}

fn check_name(name: &str) -> Result<(), StreamIdError> {
    let char_ok = |c: char| c.is_ascii_alphanumeric() || "_-./".contains(c);
    let part_ok = |part: &str| !part.is_empty() && part != "." && part != "..";
    let ok = name.is_empty()
        || (name.len() <= NAME_LEN_MAX && name.chars().all(char_ok) && name.split('/').all(part_ok));
    if ok { Ok(()) } else { Err(StreamIdError::BadName) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ok(raw: &str) -> (Wish, &str) {
        let request = parse(raw.as_bytes()).unwrap();
        (request.wish, request.name)
    }

    #[test]
    fn dialects() {
        assert_eq!(ok("publish/cam1"), (Wish::Publish, "cam1"));
        assert_eq!(ok("play/cam1"), (Wish::Play, "cam1"));
        assert_eq!(ok("publish:live/cam1"), (Wish::Publish, "live/cam1"));
        assert_eq!(ok("read:live/cam1"), (Wish::Play, "live/cam1"));
        assert_eq!(ok("cam1"), (Wish::Publish, "cam1"));
        assert_eq!(ok(""), (Wish::Publish, ""));
        assert_eq!(ok("live/stream/belabox?srtauth=key"), (Wish::Publish, "live/stream/belabox"));
        assert_eq!(ok("#!::r=live/cam1,m=publish,s=TOKEN"), (Wish::Publish, "live/cam1"));
        assert_eq!(ok("#!::r=live/cam1"), (Wish::Play, "live/cam1"));
        assert_eq!(ok("#!::bmd_uuid=1,bmd_name=x,r=key,m=publish"), (Wish::Publish, "key"));
    }

    #[test]
    fn tokens() {
        let token = |raw: &'static str| parse(raw.as_bytes()).unwrap().token;
        assert_eq!(token("cam1"), None);
        assert_eq!(token("cam1?token=bgt_x"), Some("bgt_x"));
        assert_eq!(token("publish/cam1?latency=2&srtauth=bgt_x&token=y"), Some("bgt_x"));
        assert_eq!(token("#!::r=cam1,m=publish,bg_t=bgt_x"), Some("bgt_x"));
        assert_eq!(token("#!::r=cam1?token=bgt_x,m=publish"), Some("bgt_x"));
        assert_eq!(ok("#!::r=cam1?token=bgt_x,m=publish"), (Wish::Publish, "cam1"));
        assert_eq!(token("cam1?token"), None);
    }

    #[test]
    fn refused() {
        assert_eq!(parse(&[0xff, 0xfe]), Err(StreamIdError::NotText));
        assert_eq!(parse(b"publish/../etc"), Err(StreamIdError::BadName));
        assert_eq!(parse(b"publish//x"), Err(StreamIdError::BadName));
        assert_eq!(parse(b"publish/a\x1b[31m"), Err(StreamIdError::BadName));
        assert_eq!(parse(b"#!::r=x,m=bidirectional"), Err(StreamIdError::BadMode));
        assert_eq!(parse(&[b'a'; NAME_LEN_MAX + 1]), Err(StreamIdError::BadName));
    }
}
