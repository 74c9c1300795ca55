use http::{
    HeaderMap, HeaderValue,
    header::{COOKIE, SET_COOKIE},
};
use proptest::{collection::vec, prelude::*};

use super::*;

fn headers<T: AsRef<[u8]>>(fields: impl IntoIterator<Item = T>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for field in fields {
        headers.append(COOKIE, HeaderValue::from_bytes(field.as_ref()).unwrap());
    }
    headers
}

fn read<T: AsRef<[u8]>>(fields: impl IntoIterator<Item = T>) -> Candidates {
    CookiePolicy::default().read(&headers(fields))
}

fn ids(found: &Candidates) -> Vec<&str> {
    found.iter().map(|candidate| candidate.id.as_ref()).collect()
}

/// `X` in these bytes is the ID.
fn with_id(bytes: &[u8]) -> Vec<u8> {
    bytes
        .iter()
        .flat_map(|byte| if *byte == b'X' { X.as_bytes() } else { std::slice::from_ref(byte) })
        .copied()
        .collect()
}

#[test]
fn the_genuine_cookie_is_found() {
    let rows: [&[u8]; 17] = [
        b"__Host-id=X",
        b"a=b; __Host-id=X",
        b"__Host-id=X; a=b",
        b"a=b;__Host-id=X;c=d",
        b"a=b; \t __Host-id=X\t ; c",
        b"; ;;__Host-id=X;",
        b"$Version=1; __Host-id=X; $Path=/",
        b"utm=\xe9; __Host-id=X",
        b"utm=\xc3\xa9; __Host-id=X",
        b"\xff\xfe=; =; ==; __Host-id=X",
        b"a=\"; __Host-id=X; b=\"",
        b"a=\\; __Host-id=X",
        b"__Host-id; __Host-id=X",
        b"__Host-id2=Q; __Host-i=Q; __Host-id=X",
        b"__HOST-id=Q; __Host-id=X",
        b"a=__Host-id=Q; __Host-id=X",
        b"__Host-id=X; __Host-id=X",
    ];
    for row in rows {
        let found = read([with_id(row)]);
        assert_eq!(ids(&found), [X], "{}", row.escape_ascii());
        assert!(!found.malformed && !found.more, "{}", row.escape_ascii());
        assert!(!found.is_empty() && found.iter().next().is_some_and(|first| first.id == id(X) && !first.resign));
    }
}

#[test]
fn another_name_is_not_ours() {
    let rows: [&[u8]; 26] = [
        b"",
        b"__Host-id",
        b"X",
        b"=__Host-id=X",
        b"= __Host-id=X",
        b"..Host-id=X",
        b"__Host[id=X",
        b"a=1, __Host-id=X",
        b"a=1 __Host-id=X",
        b"a=1&__Host-id=X",
        b"__HOST-id=X",
        b"__host-id=X",
        b"__Host-ID=X",
        b"__%48ost-id=X",
        b"%5F%5FHost-id=X",
        b"\"__Host-id\"=X",
        b"__Host-id =X",
        b"__Host-id\t=X",
        b"__Host-id2=X",
        b"_Host-id=X",
        b"a__Host-id=X",
        b"$__Host-id=X",
        b"\xa0__Host-id=X",
        b"\x85__Host-id=X",
        b"\xff__Host-id=X",
        b"a=\"; b\"__Host-id=X",
    ];
    let blanks =
        ["\u{2000}", "\u{a0}", "\u{85}", "\u{3000}", "\u{feff}", "\u{2028}", "\u{1680}", "\u{200b}", "\u{202e}"];
    let blanks = blanks.map(|blank| format!("{blank}__Host-id=X").into_bytes());
    for row in rows.into_iter().chain(blanks.iter().map(Vec::as_slice)) {
        let found = read([with_id(row)]);
        assert!(found.is_empty() && !found.malformed && !found.more, "{}", row.escape_ascii());
    }
}

#[test]
fn what_cannot_be_an_id_is_malformed() {
    let mut rows: Vec<Vec<u8>> =
        ["A".repeat(31), "A".repeat(33), "A".repeat(4096), "A".repeat(60_000)].map(Into::into).into();
    for value in [
        &b""[..],
        b" ",
        b"\t \t",
        b"\"X\"",
        b"\"X",
        b"X\"",
        b" X",
        b"X=",
        b"=X",
        b"X,",
        b"X.",
        b"X a",
        b"\xe9X",
        b"X\xc2\xa0",
        b"../../etc/passwd",
        b"*",
        b"{x}",
        b"sess:1",
        b"%41AAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
        b"+AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
        b"AAAAAAAAAAAAAAA/AAAAAAAAAAAAAAAA",
        b"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
        "\u{202e}AAAAAAAAAAAAAAAAAAAAAAAAAAAAA".as_bytes(),
    ] {
        rows.push(with_id(value));
    }
    // The key of a session is not its ID.
    rows.push(id(X).key().as_str().into());
    for value in rows {
        let pair = [b"__Host-id=", &*value].concat();
        let found = read([&pair]);
        assert!(found.is_empty() && found.malformed && !found.more, "{}", pair.escape_ascii());
        // It hides no good one, whichever comes first.
        let good = format!("__Host-id={X}").into_bytes();
        for row in [[&*pair, b"; ", &good].concat(), [&*good, b"; ", &pair].concat()] {
            let found = read([&row]);
            assert_eq!((ids(&found), found.malformed), (vec![X], true), "{}", row.escape_ascii());
        }
        assert_eq!(ids(&read([&pair, &good])), [X]);
    }
    // CR, LF, NUL and ESC do not even fit into a header.
    for bad in ["\r\nFLUSHALL", "\0", "\x1b[2J"] {
        assert!(HeaderValue::from_bytes(format!("__Host-id={bad}").as_bytes()).is_err());
    }
}

#[test]
fn all_fields_are_searched() {
    let good = format!("__Host-id={X}");
    for at in 0..3 {
        let mut fields = ["a=1; b=2", "\u{e9}", ""];
        fields[at] = &good;
        assert_eq!(ids(&read(fields)), [X]);
    }
    let (x, y) = (format!("a; __Host-id={X}"), format!("__Host-id={Y}; b"));
    assert_eq!(ids(&read([&x, &y])), [X, Y]);
    assert_eq!(ids(&read([&y, &x])), [Y, X]);
    // A pair does not go on in the next field.
    assert!(read(["__Host-id=", X]).is_empty());
    assert!(read(["__Host-", &format!("id={X}")]).is_empty());
    // Nor does any other header count.
    let mut other = HeaderMap::new();
    other.insert("x-session-id", HeaderValue::from_static(X));
    other.insert("authorization", HeaderValue::from_str(&good).unwrap());
    assert!(CookiePolicy::default().read(&other).is_empty());
}

#[test]
fn four_different_ids_are_kept_in_order() {
    let texts: Vec<_> = (0..10_000).map(|number| format!("{number:032}")).collect();
    let pairs: Vec<_> = texts.iter().map(|text| format!("__Host-id={text}; __Host-id={text}")).collect();
    for count in 1..=4 {
        let found = read([pairs[..count].join("; ")]);
        assert_eq!(ids(&found), texts[..count]);
        assert!(!found.more);
        assert_eq!(found.clone().into_iter().count(), count);
        assert_eq!((&found).into_iter().count(), count);
    }
    for found in [read([pairs.join(";")]), read(&pairs[..5]), read(&pairs)] {
        assert_eq!(ids(&found), texts[..4]);
        assert!(found.more);
    }
    let repeated = format!("__Host-id={X};").repeat(500);
    assert_eq!((ids(&read([&repeated])), read([&repeated]).more), (vec![X], false));
}

#[test]
fn no_more_than_512_pairs_and_64_kib_are_read() {
    let good = format!("__Host-id={X}");
    let rows = [
        ("a=b;".repeat(511) + &good, true),
        ("a=b;".repeat(512) + &good, false),
        (";".repeat(511) + &good, true),
        (";".repeat(512) + &good, false),
        (format!("a={};{good}", "a".repeat(65_536 - 3 - good.len())), true),
        (format!("a={};{good};", "a".repeat(65_536 - 4 - good.len())), true),
        (format!("a={};{good}", "a".repeat(65_536 - 2 - good.len())), false),
        (format!("{good}; a={}", "a".repeat(400_000)), true),
    ];
    for (row, inside) in rows {
        let found = read([&row]);
        assert_eq!(!found.is_empty(), inside, "{} bytes", row.len());
        let whole = row.len() <= 65_536 && row.split(';').count() <= 512;
        assert_eq!(found.more, !whole, "{} bytes", row.len());
    }
    // What is cut off does not become an ID by it.
    let cut = format!("a={};{good}AAAA", "a".repeat(65_536 - 3 - good.len()));
    assert!(read([&cut]).is_empty() && read([&cut]).more);
    // The limits are for all fields together.
    let crumbs = |count| std::iter::repeat_n("a=b", count).chain([&*good]).collect::<Vec<_>>();
    assert_eq!(ids(&read(crumbs(511))), [X]);
    assert!(read(crumbs(512)).is_empty() && read(crumbs(512)).more);
    let half = "a".repeat(32_768);
    assert!(read([&half, &half, &good]).is_empty());
}

#[test]
fn other_names_are_read_by_the_same_rules() {
    let policy = policy(|it| it.name = "%69d".to_owned());
    let read = |text: String| !policy.read(&headers([text])).is_empty();
    assert!(read(format!("%69d={X}")));
    assert!(!read(format!("id={X}")) && !read(format!("__Host-id={X}")));
}

/// The same rules with none of the limits and no thought of speed.
fn slowly(fields: &[Vec<u8>]) -> (Vec<String>, bool) {
    let (mut ids, mut malformed) = (Vec::new(), false);
    for pair in fields.iter().flat_map(|field| field.split(|byte| *byte == b';')) {
        let blank = |byte: &&u8| matches!(byte, b' ' | b'\t');
        let start = pair.iter().take_while(blank).count();
        let end = pair.iter().rev().take_while(blank).count();
        let pair = pair.get(start..pair.len() - end).unwrap_or_default();
        let Some(equals) = pair.iter().position(|byte| *byte == b'=') else { continue };
        if &pair[..equals] == b"__Host-id" {
            match SessionId::parse(&pair[equals + 1..]) {
                Some(id) => ids.push(id.as_ref().to_owned()),
                None => malformed = true,
            }
        }
    }
    let mut seen = std::collections::HashSet::new();
    ids.retain(|id| seen.insert(id.clone()));
    (ids, malformed)
}

proptest! {
    #[test]
    fn fast_and_slow_agree(fields in vec(vec(0..14usize, 0..24), 0..4)) {
        let pieces: [&[u8]; 14] = [
            b"__Host-id", b"__Host-id=", b"__host-id=", b"=", b";", b"; ", b" ", b"\t", b"\"", b",", b"\xe9", b"a",
            X.as_bytes(), Y.as_bytes(),
        ];
        let fields: Vec<Vec<u8>> = fields.iter().map(|field| field.iter().flat_map(|at| pieces[*at]).copied().collect()).collect();
        let found = read(&fields);
        prop_assert!(!found.more);
        prop_assert_eq!((ids(&found).into_iter().map(str::to_owned).collect(), found.malformed), slowly(&fields));
    }

    #[test]
    fn any_bytes_are_survived(bytes in vec(any::<u8>(), 0..300)) {
        if let Ok(value) = HeaderValue::from_bytes(&bytes) {
            let map = HeaderMap::from_iter([(COOKIE, value.clone())]);
            prop_assert!(CookiePolicy::default().read(&map).is_empty());
            let mut response = HeaderMap::from_iter([(SET_COOKIE, value)]);
            CookiePolicy::default().drop_foreign(&mut response);
        }
    }
}

#[test]
fn nothing_is_read_behind_the_fifth_id() {
    let id = |number: u8| format!("__Host-id={}", String::from_utf8(vec![b'A' + number; 32]).unwrap());
    let many = (0..5).map(id).collect::<Vec<_>>().join("; ");
    let found = read([format!("{many}; __Host-id=malformed")]);
    assert!(found.more && !found.malformed);
    assert_eq!(found.iter().count(), 4);
    let four = (0..4).map(id).collect::<Vec<_>>().join("; ");
    let found = read([format!("{four}; __Host-id=malformed")]);
    assert!(!found.more && found.malformed);
}
