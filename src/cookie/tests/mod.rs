mod request;
mod set_cookie;
mod settings;
#[cfg(feature = "signed")]
mod signature;

use super::*;
use crate::id::SessionId;

/// Well-formed texts of IDs.
const X: &str = "AbCdEfGhIjKlMnOpQrStUvWxYz0123-_";
const Y: &str = "ZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZ";

fn id(text: &str) -> SessionId {
    SessionId::parse(text.as_bytes()).unwrap()
}

/// The default settings after this change.
fn settings(change: impl FnOnce(&mut CookieSettings)) -> CookieSettings {
    let mut settings = CookieSettings::default();
    change(&mut settings);
    settings
}

fn policy(change: impl FnOnce(&mut CookieSettings)) -> CookiePolicy {
    CookiePolicy::new(&settings(change)).unwrap()
}

/// Every combination of the attributes, valid or not.
fn combinations() -> Vec<CookieSettings> {
    let names =
        ["id", "__Secure-id", "__sEcUrE-id", "__Host-id", "__HOST-id", "__Http-id", "__Host-Http-id", "__host-hTTP-id"];
    let mut all = Vec::new();
    for name in names {
        for same_site in [SameSite::Strict, SameSite::Lax, SameSite::None] {
            for bits in 0..32 {
                all.push(settings(|it| {
                    it.name = name.to_owned();
                    it.same_site = same_site;
                    it.secure = bits & 1 != 0;
                    it.http_only = bits & 2 != 0;
                    it.partitioned = bits & 4 != 0;
                    it.path = if bits & 8 != 0 { "/app/~a%20b" } else { "/" }.to_owned();
                    it.domain = (bits & 16 != 0).then(|| ".Shop-1.example".to_owned());
                }));
            }
        }
    }
    all
}
