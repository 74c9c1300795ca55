//! Hostile `Cookie` fields: whose session they lead to, and what that costs.
use std::convert::Infallible;

use cloakroom::testing::Operation;
use http::{HeaderValue, Request, Response, header};
use tower::{Layer as _, ServiceExt, service_fn};

use super::{Trial, is_canonical, stored, trial, unknown, who};
use crate::support::{log::Log, web::send};

impl Trial {
    /// Whose session these fields lead to, and by how many look-ups; eager and lazy.
    async fn finds(&self, fields: &[impl AsRef<[u8]>], expected: Option<&str>, look_ups: usize) {
        for layer in [&self.layer, &self.lazy] {
            let entries = self.cache.inner().len();
            self.cache.reset_calls();
            let (found, headers) = who(layer, fields).await;
            let shown: Vec<_> = fields.iter().map(|field| start_of(field.as_ref())).collect();
            assert_eq!(found.as_deref(), expected, "{shown:?}");
            assert_eq!(self.cache.calls().of(Operation::Get), look_ups, "look-ups: {shown:?}");
            assert_eq!(self.cache.calls().total(), look_ups, "nothing else: {shown:?}");
            assert_eq!(headers.get(header::SET_COOKIE), None, "a cookie: {shown:?}");
            assert_eq!(self.cache.inner().len(), entries, "stored: {shown:?}");
        }
    }

    async fn anon(&self, field: impl AsRef<[u8]>, look_ups: usize) {
        self.finds(&[field], None, look_ups).await;
    }

    async fn is_a(&self, field: impl AsRef<[u8]>, look_ups: usize) {
        self.finds(&[field], Some("A"), look_ups).await;
    }

    /// None of it did harm.
    async fn both_live(&self) {
        for (id, name) in [(&self.a, "A"), (&self.b, "B")] {
            self.finds(&[format!("__Host-id={id}")], Some(name), 1).await;
        }
    }
}

fn start_of(text: &[u8]) -> String {
    String::from_utf8_lossy(&text[..text.len().min(100)]).into_owned()
}

#[tokio::test]
async fn what_cannot_be_an_id_costs_nothing() {
    let trial = trial().await;
    let x = &trial.a;
    for field in ["__Host-id=", "__Host-id", "__Host-id=   ", "__Host-id=\t", "   ", "", "=", ";", "__Host-id=; a=b"] {
        trial.anon(field, 0).await;
    }
    for value in [x[..31].to_owned(), format!("{x}A"), "A".repeat(1 << 20), x[..1].to_owned(), format!("{x}{x}")] {
        trial.anon(format!("__Host-id={value}"), 0).await;
    }
    for bad in ['+', '/', '=', '.', '%', '~', ',', ' ', '\u{e9}'] {
        for at in [0, 15, 31] {
            let value: String = x.chars().enumerate().map(|(n, char)| if n == at { bad } else { char }).collect();
            // A blank at the end is stripped, which leaves 31 characters.
            trial.anon(format!("__Host-id={value}"), 0).await;
        }
    }
    let encoded: String = x.bytes().map(|byte| format!("%{byte:02X}")).collect();
    for value in [format!("\"{x}\""), format!("'{x}'"), encoded, format!("%41{}", &x[3..]), format!("%41{}", &x[1..])] {
        trial.anon(format!("__Host-id={value}"), 0).await;
    }
    trial.both_live().await;
}

#[tokio::test]
async fn an_unknown_id_is_one_look_up_and_not_adopted() {
    let trial = trial().await;
    for at in [0, 7, 31] {
        for bit in 0..6 {
            let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
            let mut bytes = trial.a.clone().into_bytes();
            let value = alphabet.iter().position(|byte| *byte == bytes[at]).unwrap();
            bytes[at] = alphabet[value ^ (1 << bit)];
            trial.anon([b"__Host-id=", &bytes[..]].concat(), 1).await;
        }
    }
    let ended = stored(&trial.store, "C").await;
    trial.store.destroy(&ended).await.unwrap();
    trial.anon(format!("__Host-id={ended}"), 1).await;
    trial.anon(format!("__Host-id={}", "A".repeat(32)), 1).await;
    trial.both_live().await;
}

#[tokio::test]
async fn another_name_is_another_cookie() {
    let trial = trial().await;
    let x = &trial.a;
    for name in ["__%48ost-id", "%5F%5FHost-id", "__Host%2Did", "__Host-id%20", "%00__Host-id"] {
        trial.anon(format!("{name}={x}"), 0).await;
        trial.is_a(format!("__Host-id={x}; {name}={}", trial.b), 1).await;
    }
    let blanks = [
        "\u{2000}", "\u{a0}", "\u{85}", "\u{3000}", "\u{feff}", "\u{1680}", "\u{2028}", "\u{2029}", "\u{202f}",
        "\u{205f}",
    ];
    for blank in blanks {
        for field in
            [format!("{blank}__Host-id={x}"), format!("a=b; {blank}__Host-id={x}"), format!("__Host-id{blank}={x}")]
        {
            trial.anon(field, 0).await;
        }
        trial.anon(format!("__Host-id={blank}{x}"), 0).await;
        trial.anon(format!("__Host-id={x}{blank}"), 0).await;
    }
    for raw in [&b"\xa0"[..], b"\x85", b"\xff"] {
        trial.anon([raw, b"__Host-id=", x.as_bytes()].concat(), 0).await;
    }
    for name in ["__HOST-id", "__host-id", "__Host-ID", "__Host-Id"] {
        trial.anon(format!("{name}={x}"), 0).await;
    }
    for field in [
        format!("=__Host-id={x}"),
        format!("..Host-id={x}"),
        format!("__Host[id={x}"),
        format!("a=1, __Host-id={x}"),
        format!("a=1,__Host-id={x}"),
        format!("__Host-id ={x}"),
        format!("__Host-id= {x}"),
        format!("x__Host-id={x}"),
        format!("__Host-id2={x}"),
        format!("a=__Host-id={x}"),
        format!("__Host-id:{x}"),
        format!("__Host-id=={x}"),
    ] {
        trial.anon(field, 0).await;
    }
    trial.both_live().await;
}

#[tokio::test]
async fn cookies_beside_it_and_several_fields_do_not_hide_an_id() {
    let trial = trial().await;
    let x = &trial.a;
    trial.is_a(format!("$Version=1; __Host-id={x}; $Path=/"), 1).await;
    for bad in
        [&b"utm=\xe9"[..], b"utm=\xc3\xa9", b"\xff\xfe", b"=", b"a", b"\"", b"a=\"b;c", b"a=\"", b"__Host-id2=;;;"]
    {
        trial.is_a([bad, b"; __Host-id=", x.as_bytes()].concat(), 1).await;
        trial.is_a([b"__Host-id=", x.as_bytes(), b"; ", bad].concat(), 1).await;
        trial.is_a([b"__Host-id=", x.as_bytes(), b";", bad].concat(), 1).await;
    }
    for tidy in [
        format!("a=b;__Host-id={x}"),
        format!(" \t__Host-id={x}\t "),
        format!("a=b;\t __Host-id={x}\t ;c=d"),
        format!(";;__Host-id={x};;"),
    ] {
        trial.is_a(tidy, 1).await;
    }
    let pair = format!("__Host-id={x}");
    for fields in [
        vec!["a=b", &pair],
        vec!["a=b", "c=d", &pair],
        vec![&pair, "c=d"],
        vec!["", &pair],
        vec!["a=b", "c=d; e=f", &pair, "g=h"],
        vec!["__Host-id=", &pair],
        vec![&pair, &pair],
    ] {
        trial.finds(&fields, Some("A"), 1).await;
    }
    // A pair is not put together from two fields.
    trial.finds(&["__Host-id=", &**x], None, 0).await;
    trial.finds(&[&pair[..20], &pair[20..]], None, 0).await;
}

#[tokio::test]
async fn of_several_ids_exactly_one_live_session_is_used() {
    let trial = trial().await;
    let (x, y) = (&trial.a, &trial.b);
    let [malformed, stranger] = ["short".to_owned(), unknown('z')];
    for (one, two, look_ups) in
        [(&malformed, x, 1), (x, &malformed, 1), (&stranger, x, 2), (x, &stranger, 2), (x, x, 1)]
    {
        trial.is_a(format!("__Host-id={one}; __Host-id={two}"), look_ups).await;
        trial.finds(&[format!("__Host-id={one}"), format!("__Host-id={two}")], Some("A"), look_ups).await;
    }
    for (one, two) in [(x, y), (y, x)] {
        trial.anon(format!("__Host-id={one}; __Host-id={two}"), 2).await;
        trial.finds(&[format!("__Host-id={one}"), format!("__Host-id={two}")], None, 2).await;
        trial.anon(format!("__Host-id={stranger}; __Host-id={one}; __Host-id=; __Host-id={two}"), 3).await;
    }
    trial.both_live().await;
}

#[tokio::test]
async fn whatever_the_handler_does_with_two_live_sessions_harms_neither() {
    let trial = trial().await;
    let (x, y) = (&trial.a, &trial.b);
    for both in [format!("__Host-id={x}; __Host-id={y}"), format!("__Host-id={y}; __Host-id={x}")] {
        for layer in [&trial.layer, &trial.lazy] {
            for what in 0..5 {
                let reply = send(layer, Some(&both), move |session| async move {
                    assert!(session.is_new() && session.is_empty());
                    match what {
                        0 => session.destroy(),
                        1 => session.renew(),
                        2 => session.touch(),
                        3 => session.clear(),
                        _ => session.set("who", "C").unwrap(),
                    }
                    200
                })
                .await;
                match reply.cookie() {
                    None => assert!(what < 4, "a new session of its own"),
                    Some(cookie) => {
                        assert!(what == 4 && !cookie.contains(x) && !cookie.contains(y), "{what}");
                        assert_eq!(who(layer, &[cookie]).await.0.as_deref(), Some("C"));
                    }
                }
            }
        }
    }
    trial.both_live().await;
}

#[tokio::test]
async fn long_fields_are_read_up_to_a_limit() {
    let trial = trial().await;
    let x = &trial.a;
    let flood: Vec<_> = (0..10_000).map(|n| format!("__Host-id={n:032}")).collect();
    trial.anon(flood.join("; "), 4).await;
    trial.finds(&flood[..1000], None, 4).await;
    let same = vec![format!("__Host-id={x}"); 500];
    trial.is_a(same.join("; "), 1).await;
    trial.anon(vec!["__Host-id=short"; 10_000].join("; "), 0).await;
    for unit in [";", "=", "a;", "=;=;", "\"\\\"\"\";", " ", "\t;", "__Host-id", "__Host-id=;", "\u{e9}"] {
        trial.anon(unit.repeat(400_000 / unit.len()), 0).await;
    }
    trial.is_a(format!("{}__Host-id={x}", "a=b; ".repeat(511)), 1).await;
    trial.anon(format!("{}__Host-id={x}", "a=b; ".repeat(512)), 0).await;
    // 64 KiB are read: an ID that ends with them is one, and what goes on might be something longer.
    let pad = format!("a={}; __Host-id={x}", "b".repeat(65_536 - 2 - 2 - 10 - 32));
    assert_eq!(pad.len(), 65_536);
    trial.is_a(&pad, 1).await;
    for beyond in ["A", ";"] {
        trial.anon(format!("{pad}{beyond}"), 0).await;
    }
    let four: String = "wxyz".chars().map(|fill| format!("__Host-id={}; ", unknown(fill))).collect();
    trial.anon(format!("{four}__Host-id={x}"), 4).await;
    trial.both_live().await;
}

#[tokio::test]
async fn commands_paths_and_keys_are_no_ids() {
    let trial = trial().await;
    for text in [
        "../../etc/passwd",
        "*",
        "{x}",
        "sess:1",
        "cloakroom:*",
        "%0d%0aFLUSHALL",
        "\\r\\nFLUSHALL",
        "' OR 1=1 --",
        "${jndi:ldap://x}",
        "null",
        "0",
    ] {
        trial.anon(format!("__Host-id={text}"), 0).await;
        trial.anon(format!("__Host-id={text:_<32}"), usize::from(text == "null" || text == "0")).await;
    }
    let key = trial.store.load(&trial.a).await.unwrap().unwrap().key().unwrap().to_string();
    for shown in [key.clone(), format!("cloakroom:{key}")] {
        trial.anon(format!("__Host-id={shown}"), 0).await;
    }
    trial.anon(format!("__Host-id={}", &key[..32]), usize::from(is_canonical(&key[..32]))).await;
    trial.both_live().await;
}

#[tokio::test]
async fn an_id_anywhere_else_is_not_read() {
    let trial = trial().await;
    let x = &trial.a;
    for layer in [&trial.layer, &trial.lazy] {
        trial.cache.reset_calls();
        let inner = service_fn(|request: Request<String>| async move {
            let session = request.extensions().get::<cloakroom::LazySession>().unwrap().load().await.unwrap();
            Ok::<_, Infallible>(Response::new(session.is_new()))
        });
        let request = Request::post(format!("/{x}?id={x}&__Host-id={x}&sid={x}"))
            .header("X-Session-Id", x)
            .header("__Host-id", x)
            .header("Cookie2", format!("__Host-id={x}"))
            .header("Set-Cookie", format!("__Host-id={x}"))
            .header("Authorization", format!("Bearer {x}"))
            .header("Referer", format!("https://example.org/?__Host-id={x}"))
            .body(format!("__Host-id={x}&id={x}"))
            .unwrap();
        assert!(*layer.layer(inner).oneshot(request).await.unwrap().body());
        assert_eq!(trial.cache.calls().total(), 0);
    }
}

#[tokio::test]
async fn a_login_under_a_chosen_id_gets_another_one() {
    let trial = trial().await;
    for (n, chosen) in [unknown('q'), "A".repeat(32), "attacker-chosen".into(), String::new()].iter().enumerate() {
        for layer in [&trial.layer, &trial.lazy] {
            let sent = format!("__Host-id={chosen}");
            let reply = send(layer, Some(&sent), |session| async move {
                session.renew();
                session.set("who", "A").unwrap();
                200
            })
            .await;
            let issued = reply.cookie().expect("a login sets a cookie");
            assert_ne!(issued, sent);
            assert_eq!(who(layer, &[issued]).await.0.as_deref(), Some("A"));
            trial.finds(&[sent], None, usize::from(n < 2)).await;
        }
    }
}

#[tokio::test]
async fn what_looks_like_control_characters_never_reaches_the_log() {
    for byte in [b'\r', b'\n', 0, 0x1b, 0x7f] {
        let value = [b"__Host-id=", &[byte][..], b"canary"].concat();
        assert!(HeaderValue::from_bytes(&value).is_err(), "{byte} does not get as far as the layer");
    }
    let trial = trial().await;
    let (log, _recording) = Log::record();
    for _ in 0..500 {
        for value in ["canary\\r\\n", "%0Acanary", "\u{9b}31mcanary", "\u{2028}canary", "canary\tcanary"] {
            trial.anon(format!("__Host-id={value}"), 0).await;
        }
        trial.anon(format!("__Host-id={}; __Host-id={}", trial.a, trial.b), 2).await;
    }
    let text = log.text();
    assert!(!text.contains("canary") && !text.contains('\u{9b}'), "{text}");
    assert!(!text.contains(&trial.a) && !text.contains(&trial.b), "an ID in the log");
    assert!(text.lines().count() < 100, "{} lines", text.lines().count());
}
