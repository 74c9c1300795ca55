//! From the `Cookie` header to IDs.
//!
//!     cargo bench --bench cookie --features testing
#![allow(clippy::unwrap_used)]
use cloakroom::benching::Cookies;
use divan::{Bencher, black_box, counter::BytesCount};
use http::{HeaderMap, HeaderValue, header::COOKIE};

const OURS: &str = "__Host-id=AbCdEfGhIjKlMnOpQrStUvWxYz012345";
const OTHERS: &str = "_ga=GA1.1.1234567890.1700000000; theme=dark; consent=analytics%3Dfalse%26ads%3Dfalse";

fn header(name: &str) -> String {
    match name {
        "none" => String::new(),
        "others alone" => OTHERS.into(),
        "ours alone" => OURS.into(),
        "ours among others" => format!("{OTHERS}; {OURS}; lang=en"),
        "3 different" => format!("{OURS}; {}; {}", OURS.replace('A', "B"), OURS.replace('A', "C")),
        "64 KB of semicolons" => ";".repeat(65_536),
        "64 KB, one name" => "a".repeat(65_536),
        _ => "__Host-id=; ".repeat(5461),
    }
}

#[divan::bench(args = ["none", "others alone", "ours alone", "ours among others", "3 different",
    "64 KB of semicolons", "64 KB, one name", "64 KB of ours, empty"])]
fn ids(bencher: Bencher<'_, '_>, name: &str) {
    let text = header(name);
    let mut headers = HeaderMap::new();
    if !text.is_empty() {
        headers.insert(COOKIE, HeaderValue::from_str(&text).unwrap());
    }
    let cookies = Cookies::with_defaults();
    bencher.counter(BytesCount::new(text.len())).bench_local(|| cookies.ids(black_box(&headers)));
}

fn main() {
    divan::Divan::from_args().sample_size(100).sample_count(200).main();
}
