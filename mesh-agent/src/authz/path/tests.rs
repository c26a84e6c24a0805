//! What each reading makes of a path.

use proptest::prelude::*;

use super::*;

fn istio(path: &str, how: Normalization) -> String {
    let mut out = Vec::new();
    normalize(path.as_bytes(), how, &mut out);
    String::from_utf8_lossy(&out).into_owned()
}

#[test]
fn istios_own_reading_is_that_of_its_reference() {
    use Normalization::{Base, DecodeAndMergeSlashes, MergeSlashes, None};
    fn check(path: &str, how: Normalization, want: &str) {
        assert_eq!(istio(path, how), want, "{path} {how:?}");
    }
    check("/a%2db%2ec%30%41%5f%61%7e", Base, "/a-b.c0A_a~");
    check("/some%2fdata/%61%62%63", Base, "/some%2fdata/abc");
    check("/some%2fdata/%61%62%63", DecodeAndMergeSlashes, "/some/data/abc");
    check("/some\\data", Base, "/some/data");
    check("/some\\data", None, "/some\\data");
    check("/some%5Cdata", Base, "/some%5Cdata");
    check("/some%5Cdata", DecodeAndMergeSlashes, "/some/data");
    check("/some//data///abc", Base, "/some//data///abc");
    check("/some//data///abc", MergeSlashes, "/some/data/abc");
    check("/public/./data/abc/../xyz", Base, "/public/data/xyz");
    check("/public/%2e%2E/xyz", Base, "/xyz");
    check("/a/b/..", Base, "/a/");
    check("/a/b/.", Base, "/a/b/");
    check("/..", Base, "/");
    check("/../../a", Base, "/a");
    check("/a//../b", Base, "/a/b");
    check("/a/.../b", Base, "/a/.../b");
    check("/a%20b%3f", Base, "/a%20b%3f");
    check("/a/../b", None, "/a/../b");
    check("*", Base, "*");
    check("", Base, "");
    check("/a%", Base, "/a%");
    check("/a%2", Base, "/a%2");
}

fn readings(path: &str) -> Result<Vec<String>, HasNul> {
    let mut readings = Readings::default();
    readings.read(path, Normalization::Base)?;
    Ok(readings.iter().map(|reading| String::from_utf8_lossy(reading.text).into_owned()).collect())
}

#[test]
fn a_plain_path_has_one_reading_and_every_spelling_of_it_has_that_too() {
    assert_eq!(readings("/admin/x"), Ok(vec!["/admin/x".to_owned()]));
    assert_eq!(readings("/Admin/x"), Ok(vec!["/Admin/x".to_owned(), "/admin/x".to_owned()]));
    for path in [
        "/admin%2fx",
        "/admin%2Fx",
        "/admin%5cx",
        "/admin\\x",
        "//admin/x",
        "/admin//x",
        "/./admin/x",
        "/a/../admin/x",
        "/a/%2e%2e/admin/x",
        "/a/%2e./admin/x",
        "/a%2f..%2fadmin/x",
        "/a/..%2fadmin/x",
        "/a/..\\admin/x",
        "/a/..;/admin/x",
        "/a/..;v=1/admin/x",
        "/admin;v=1/x",
        "/admin/x;jsessionid=1",
        "/;/admin/x",
        "/%61dmin/x",
        "/%2561dmin/x",
        "/admin%252fx",
        "/admin%25252fx",
        "/ADMIN/X",
        "/a/%252e%252e/admin/x",
        "/admin%u002fx",
        "/admin%c0%afx",
        "/a/%c0%ae%c0%ae/admin/x",
        "/a//../admin/x",
        "/a/;%2f..%2f..%2fadmin/x",
        "/%3B/admin/x",
        "/admin%3Bv=1/x",
    ] {
        let found = readings(path).unwrap_or_default();
        assert!(found.contains(&"/admin/x".to_owned()), "{path}: {found:?}");
    }
}

#[test]
fn servers_that_leave_more_of_a_path_as_it_is_are_thought_of_too() {
    fn check(path: &str, want: &str) {
        let found = readings(path).unwrap_or_default();
        assert!(found.contains(&want.to_owned()), "{path}: no {want} in {found:?}");
    }
    // Parameters are no dots to these.
    check("/a/;%2f..%2fadmin", "/a/admin");
    check("/admin/..;/x", "/admin/..;/x");
    // Once is enough for these.
    check("/b%2f..%2fa/%252e%252e/x", "/a/%2e%2e/x");
    // An empty segment is one that `..` takes back.
    check("/a%2f%2f..%2fb", "/a/b");
    check("/a%2f%2f..%2fb", "/b");
}

#[test]
fn a_path_that_some_servers_end_early_has_no_reading() {
    for path in ["/admin%00", "/%2500", "/a/%u0000x", "/a%c0%80"] {
        assert_eq!(readings(path), Err(HasNul), "{path}");
    }
}

proptest! {
    #[test]
    fn every_reading_of_a_path_begins_as_one_and_has_no_dots_left(path in "/[a-c/.;%\\\\25ef]{0,20}") {
        let mut readings = Readings::default();
        if readings.read(&path, Normalization::Base).is_ok() {
            for reading in readings.iter() {
                let text = String::from_utf8_lossy(reading.text).into_owned();
                prop_assert!(text.starts_with('/'), "{}: {}", path, text);
                let dots = text.split('/').any(|segment| segment == "." || segment == "..");
                prop_assert!(!dots, "{}: {}", path, text);
            }
        }
    }
}
