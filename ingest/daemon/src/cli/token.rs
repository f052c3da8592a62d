//! `bondgate token`: makes, lists, revokes and prunes the tokens by which streams are published and played.

use bondgate_auth::keyring::{Keyring, NewToken, Token, from_hex};
use bondgate_auth::stream::{TokenHash, TokenId, Wish};
use serde_json::{Value, json};

use super::args::GlobalArgs;
use super::device::warn_of_weak_seal;
use super::keyring_args::{CreateArgs, KeyringArgs, TAKEN_UP, TokenArgs, TokenCommand, Ttl};
use super::present::{document, table, utc};
use super::print;
use crate::exit::Failure;
use crate::policy::wall_ms;
use crate::service::random;

/// Does what the subcommand says.
///
/// # Errors
/// The keyring cannot be read or written, or refuses.
pub fn run(args: &TokenArgs, global: &GlobalArgs) -> Result<(), Failure> {
    let keyring = &args.keyring;
    match &args.command {
        TokenCommand::Create(create) => self::create(create, keyring, global),
        TokenCommand::List => list(keyring, global),
        TokenCommand::Revoke { what } => revoke(what, keyring, global),
        TokenCommand::Prune => prune(keyring, global),
    }
}

fn create(args: &CreateArgs, common: &KeyringArgs, global: &GlobalArgs) -> Result<(), Failure> {
    let (_, file) = common.open(global)?;
    let is_first = !file.path().exists();
    let now_ms = wall_ms();
    let expires_ms = match args.ttl {
        Ttl::Never => None,
        Ttl::Of(time) => Some(now_ms.saturating_add(u64::try_from(time.as_millis()).unwrap_or(u64::MAX))),
    };
    let new = NewToken {
        stream: args.stream.clone(),
        scope: if args.play { Wish::Play } else { Wish::Publish },
        expires_ms,
        once: args.once,
        from: args.from.clone(),
    };
    let secret = random::<20>()?;
    let scope = new.scope.name();
    let token = file.update(|keyring| keyring.create_token(new, &secret, now_ms))?;
    let id = TokenHash::of(&secret).id();
    if common.json {
        print(&document(&json!({
            "id": id.to_string(), "token": token, "stream": args.stream, "scope": scope, "expires_ms": expires_ms,
        })))?;
    } else {
        print(&format!("{token}\n"))?;
    }
    let until =
        expires_ms.map_or_else(|| "until it is revoked".to_owned(), |ms| format!("until {} UTC", utc(ms)));
    eprintln!(
        "This is secret and not shown again. Token {id}: {scope} {}, good {until}; {TAKEN_UP}.",
        args.stream
    );
    eprintln!("In the stream ID: {}", stream_id(&args.stream, args.play));
    if is_first {
        warn_of_weak_seal(&file);
    }
    Ok(())
}

/// How a caller presents it.
fn stream_id(stream: &str, play: bool) -> String {
    if play { format!("play/{stream}?token=TOKEN") } else { format!("{stream}?token=TOKEN") }
}

fn tokens(keyring: Option<&Keyring>) -> &[Token] {
    keyring.map_or(&[], Keyring::tokens)
}

fn state(token: &Token, now_ms: u64) -> &'static str {
    match (token.spent_ms, token.is_good(now_ms)) {
        (Some(_), _) => "used",
        (None, true) => "good",
        (None, false) => "expired",
    }
}

fn networks(token: &Token) -> Vec<String> {
    token.from.iter().map(ToString::to_string).collect()
}

fn list(common: &KeyringArgs, global: &GlobalArgs) -> Result<(), Failure> {
    let (_, file) = common.open(global)?;
    let keyring = file.load()?;
    let now_ms = wall_ms();
    let tokens = tokens(keyring.as_ref());
    if common.json {
        let tokens: Vec<Value> = tokens.iter().map(|token| to_json(token, now_ms)).collect();
        return print(&document(&json!({ "tokens": tokens })));
    }
    if tokens.is_empty() {
        eprintln!("there is no token; `bondgate token create STREAM` makes one");
    }
    let rows = tokens.iter().map(|token| {
        [
            token.id().to_string(),
            token.stream.clone(),
            token.scope.name().to_owned(),
            state(token, now_ms).to_owned(),
            token.expires_ms.map_or_else(|| "never".to_owned(), utc),
            if token.once { "once" } else { "" }.to_owned(),
            networks(token).join(","),
        ]
    });
    print(&table(["ID", "STREAM", "SCOPE", "STATE", "EXPIRES (UTC)", "USE", "FROM"], rows))
}

fn revoke(what: &str, common: &KeyringArgs, global: &GlobalArgs) -> Result<(), Failure> {
    let id = match (from_hex(what), TokenHash::of_text(what)) {
        (Some(id), _) => TokenId(id),
        (None, Ok(hash)) => hash.id(),
        (None, Err(error)) => {
            return Err(Failure::usage(format!(
                "this is neither the ID of a token (12 hexadecimal digits) nor a token: {error}"
            )));
        }
    };
    let (_, file) = common.open(global)?;
    let token = file.update(|keyring| keyring.revoke_token(id))?;
    if common.json {
        print(&document(&json!({ "id": id.to_string(), "stream": token.stream })))?;
    }
    eprintln!("token {id} of stream {} revoked; {TAKEN_UP}", token.stream);
    Ok(())
}

fn prune(common: &KeyringArgs, global: &GlobalArgs) -> Result<(), Failure> {
    let (_, file) = common.open(global)?;
    let now_ms = wall_ms();
    let gone = if file.path().exists() {
        file.update(|keyring| Ok::<_, Failure>(keyring.prune_tokens(now_ms)))?
    } else {
        Vec::new()
    };
    if common.json {
        let ids: Vec<String> = gone.iter().map(|token| token.id().to_string()).collect();
        print(&document(&json!({ "pruned": ids })))?;
    }
    eprintln!("{} tokens forgotten that were used up or had expired", gone.len());
    Ok(())
}

fn to_json(token: &Token, now_ms: u64) -> Value {
    json!({
        "id": token.id().to_string(),
        "stream": token.stream,
        "scope": token.scope.name(),
        "state": state(token, now_ms),
        "created_ms": token.created_ms,
        "expires_ms": token.expires_ms,
        "once": token.once,
        "spent_ms": token.spent_ms,
        "from": networks(token),
    })
}
