use std::{collections::BTreeSet, time::Duration};

use http::{HeaderMap, HeaderValue, header::SET_COOKIE};

use super::*;

fn text(value: &HeaderValue) -> &str {
    value.to_str().unwrap()
}

/// The pair and the attributes, without those that say how long.
fn parts(value: &HeaderValue) -> (&str, BTreeSet<&str>) {
    let (pair, attributes) = text(value).split_once("; ").unwrap();
    let lasting = |attribute: &&str| !attribute.starts_with("Max-Age=") && !attribute.starts_with("Expires=");
    (pair, attributes.split("; ").filter(lasting).collect())
}

#[test]
fn the_default_cookie() {
    let issued = CookiePolicy::default().issue(&id(X), None);
    let (pair, attributes) = parts(&issued);
    assert_eq!(pair, format!("__Host-id={X}"));
    assert_eq!(attributes, BTreeSet::from(["HttpOnly", "Path=/", "SameSite=Lax", "Secure"]));
    assert!(!text(&issued).contains("Max-Age"));
}

#[test]
fn a_removal_has_the_attributes_of_the_cookie_in_every_combination() {
    for settings in combinations() {
        let Ok(policy) = CookiePolicy::new(&settings) else { continue };
        let (issued, removal) = (policy.issue(&id(X), Some(Duration::from_secs(60))), policy.removal());
        let mut expected =
            BTreeSet::from([format!("SameSite={:?}", settings.same_site), format!("Path={}", settings.path)]);
        for (flag, attribute) in
            [(settings.secure, "Secure"), (settings.http_only, "HttpOnly"), (settings.partitioned, "Partitioned")]
        {
            expected.extend(flag.then(|| attribute.to_owned()));
        }
        expected.extend(settings.domain.map(|domain| format!("Domain={}", domain.trim_start_matches('.'))));
        let expected: BTreeSet<_> = expected.iter().map(String::as_str).collect();
        let name = &settings.name;
        assert_eq!(parts(&issued), (&*format!("{name}={X}"), expected.clone()));
        assert_eq!(parts(&removal), (&*format!("{name}="), expected));
        assert!(text(&issued).contains("; Max-Age=60") && !text(&issued).contains("Expires"));
        assert!(text(&removal).contains("; Max-Age=0; Expires=Thu, 01 Jan 1970 00:00:00 GMT"));
        // No attribute twice.
        assert_eq!(text(&issued).split("; ").count(), parts(&issued).1.len() + 2);
        assert_eq!(text(&removal).split("; ").count(), parts(&removal).1.len() + 3);
    }
}

#[test]
fn max_age_is_whole_seconds_from_one_to_400_days() {
    let rows = [
        (Duration::ZERO, 1),
        (Duration::from_nanos(999_999_999), 1),
        (Duration::from_secs(1), 1),
        (Duration::from_millis(9_999), 9),
        (Duration::from_secs(10), 10),
        (Duration::from_secs(34_559_999), 34_559_999),
        (Duration::from_secs(34_560_000), 34_560_000),
        (Duration::from_secs(34_560_001), 34_560_000),
        (Duration::MAX, 34_560_000),
    ];
    for (age, seconds) in rows {
        let issued = CookiePolicy::default().issue(&id(X), Some(age));
        assert!(text(&issued).starts_with(&format!("__Host-id={X}; Max-Age={seconds}; ")), "{}", text(&issued));
    }
}

#[test]
fn headers_are_sensitive() {
    let policy = CookiePolicy::default();
    for value in [policy.issue(&id(X), None), policy.issue(&id(X), Some(Duration::MAX)), policy.removal()] {
        assert!(value.is_sensitive());
        assert!(!format!("{value:?}").contains("__Host-id"));
    }
}

/// Whether a handler's cookie is dropped as one of the session cookie's name.
fn is_dropped(set_cookie: HeaderValue) -> bool {
    let mut headers = HeaderMap::from_iter([(SET_COOKIE, set_cookie)]);
    let dropped = CookiePolicy::default().drop_foreign(&mut headers);
    assert_eq!(headers.is_empty(), dropped);
    dropped
}

#[test]
fn the_name_of_a_cookie_is_read_as_a_browser_reads_it() {
    let rows = [
        ("__Host-id=a; Path=/", true),
        ("__Host-id=", true),
        (" \t__Host-id \t= a=b", true),
        ("__Host-id=a=b;__Host-id=c", true),
        ("", false),
        ("__Host-id", false),
        ("__Host-id; a=b", false),
        ("=__Host-id=a", false),
        ("__host-id=a", false),
        ("__Host-id2=a", false),
        ("_Host-id=a", false),
        ("a=__Host-id=b", false),
        ("a; __Host-id=b", false),
        ("a, __Host-id=b", false),
    ];
    for (set_cookie, own) in rows {
        assert_eq!(is_dropped(HeaderValue::from_static(set_cookie)), own, "{set_cookie}");
    }
    assert!(!is_dropped(HeaderValue::from_bytes("\u{2000}__Host-id=a".as_bytes()).unwrap()));
}

#[test]
fn other_cookies_stay_and_ours_is_there_once() {
    let policy = CookiePolicy::default();
    let ours = policy.issue(&id(X), None);
    let rows: [(&[&str], &[&str], bool); 5] = [
        (&[], &[], false),
        (&["b=1", "a=2; Path=/", "b=1"], &["b=1", "a=2; Path=/", "b=1"], false),
        (&["__Host-id=evil", "a=1"], &["a=1"], true),
        (&["a=1", "__Host-id=x", "b=2", "__Host-id =y"], &["a=1", "b=2"], true),
        (&["__Host-id=x"], &[], true),
    ];
    for (before, after, dropped) in rows {
        let mut headers = HeaderMap::new();
        headers.insert("x-other", HeaderValue::from_static("1"));
        for value in before {
            headers.append(SET_COOKIE, HeaderValue::from_static(value));
        }
        let mut without = headers.clone();
        assert_eq!(policy.drop_foreign(&mut without), dropped);
        assert_eq!(without.get_all(SET_COOKIE).iter().map(text).collect::<Vec<_>>(), after);
        assert_eq!(without["x-other"], "1");
        assert_eq!(policy.put(&mut headers, ours.clone()), dropped);
        let mut expected = after.to_vec();
        expected.push(text(&ours));
        assert_eq!(headers.get_all(SET_COOKIE).iter().map(text).collect::<Vec<_>>(), expected);
        assert_eq!(headers["x-other"], "1");
    }
}

#[test]
fn a_full_map_is_no_panic() {
    let mut headers = HeaderMap::new();
    for number in 0.. {
        let name = http::HeaderName::try_from(format!("x-{number}")).unwrap();
        if headers.try_insert(name, HeaderValue::from_static("")).is_err() {
            break;
        }
    }
    assert!(!CookiePolicy::default().put(&mut headers, CookiePolicy::default().removal()));
}
