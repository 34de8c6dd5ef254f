//! Tests of canonicalisation: Envoy's and Istio's documented examples.

use proptest::prelude::*;

use super::*;

fn normalized(level: NormPath, path: &str) -> String {
    match PathOptions::from(level).normalize(path) {
        Normalized::Unchanged => path.to_owned(),
        Normalized::Changed(path) => path,
        other => format!("{other:?}"),
    }
}

#[test]
fn none_changes_nothing() {
    for path in ["/a//../b%2Fc", "/a/./b", "/\\x", ""] {
        assert_eq!(
            PathOptions::from(NormPath::None).normalize(path),
            Normalized::Unchanged,
            "{path}"
        );
    }
}

#[test]
fn base_removes_dot_segments_and_turns_backslashes() {
    for (path, expected) in [
        ("/a/../b", "/b"),
        ("/a/./b", "/a/b"),
        ("/a/b/.", "/a/b/"),
        ("/a/b/..", "/a/"),
        ("/../../a", "/a"),
        ("/..", "/"),
        ("/a\\..\\b", "/b"),
        ("/a//../b", "/a/b"),
        ("/.hidden/..x", "/.hidden/..x"),
        ("/a//b", "/a//b"),
        ("/a/../b?x=/../y", "/b?x=/../y"),
    ] {
        assert_eq!(normalized(NormPath::Base, path), expected, "{path}");
    }
}

/// CVE-2026-73551. The first ones as a real Envoy 1.40 has them; those that were escaped it leaves to the server behind it.
#[test]
fn dot_segments_with_parameters_are_dot_segments() {
    for (path, expected) in [
        ("/x/..;/admin", "/admin"),
        ("/x/..;foo=bar/admin", "/admin"),
        ("/x/.;/admin", "/x/admin"),
        ("/x/..;a", "/"),
        ("/x/.;a", "/x/"),
        ("/x;a/../admin", "/admin"),
        ("/..;/..;/a", "/a"),
        ("/a/b/..;x=1;y=2/c", "/a/c"),
        ("/a/..;x%2fy/c", "/c"),
        ("/a/..;?q=..;/x", "/?q=..;/x"),
        ("/x/...;/y", "/x/...;/y"),
        ("/x/;/y", "/x/;/y"),
        ("/x;..;/y", "/x;..;/y"),
        ("/a/b;p/c", "/a/b;p/c"),
        ("/x/%2e%2e;/admin", "/admin"),
        ("/x/.%2e;a=b/admin", "/admin"),
        ("/x/..%3b/admin", "/x/..%3b/admin"),
    ] {
        assert_eq!(normalized(NormPath::Base, path), expected, "{path}");
    }
}

#[test]
fn base_decodes_unreserved_characters_only() {
    for (path, expected) in [
        ("/%61dmin", "/admin"),
        ("/%2e%2E/a", "/a"),
        ("/a%2Fb", "/a%2Fb"),
        ("/a%2fb", "/a%2fb"),
        ("/a%5Cb", "/a%5Cb"),
        ("/a%20b", "/a%20b"),
        ("/a b", "/a%20b"),
        ("/%", "/%"),
        ("/%zz", "/%zz"),
        ("/\u{e9}", "/%C3%A9"),
        ("/%7Euser", "/~user"),
        ("/%252e%252e", "/%252e%252e"),
    ] {
        assert_eq!(normalized(NormPath::Base, path), expected, "{path}");
    }
}

#[test]
fn a_path_with_a_nul_or_a_fragment_is_rejected() {
    let base = PathOptions::from(NormPath::Base);
    assert_eq!(base.normalize("/a%00b"), Normalized::Rejected);
    assert_eq!(base.normalize("/a#b"), Normalized::Rejected);
    assert_eq!(
        PathOptions::default().normalize("/a?b#c"),
        Normalized::Rejected
    );
}

#[test]
fn merging_leaves_one_slash_of_many() {
    for (path, expected) in [
        ("//a///b//", "/a/b/"),
        ("/a//b?c=//", "/a/b?c=//"),
        ("/a/b", "/a/b"),
    ] {
        assert_eq!(normalized(NormPath::MergeSlashes, path), expected, "{path}");
    }
}

#[test]
fn decoding_makes_slashes_of_escaped_ones() {
    for (path, expected) in [
        ("/a%2fb", "/a/b"),
        ("/a%2F%2fb", "/a/b"),
        ("/a%5cb", "/a/b"),
        ("/a%2f..%2Fb", "/b"),
        ("/a?b=%2f", "/a?b=%2f"),
    ] {
        assert_eq!(
            normalized(NormPath::DecodeAndMergeSlashes, path),
            expected,
            "{path}"
        );
    }
}

#[test]
fn escaped_slashes_are_kept_rejected_or_redirected() {
    let act = |action, path| {
        PathOptions {
            normalize: true,
            merge_slashes: false,
            escaped_slashes: action,
        }
        .normalize(path)
    };
    assert_eq!(act(EscapedSlashes::Keep, "/a%2Fb"), Normalized::Unchanged);
    assert_eq!(act(EscapedSlashes::Reject, "/a%2Fb"), Normalized::Rejected);
    assert_eq!(
        act(EscapedSlashes::Reject, "/a?b=%2F"),
        Normalized::Unchanged
    );
    assert_eq!(
        act(EscapedSlashes::UnescapeAndRedirect, "/a%2Fb?c"),
        Normalized::Redirect("/a/b?c".to_owned())
    );
    assert_eq!(
        act(EscapedSlashes::UnescapeAndRedirect, "/a/../b"),
        Normalized::Changed("/b".to_owned())
    );
    assert_eq!(
        act(EscapedSlashes::UnescapeAndForward, "/a%2Fb"),
        Normalized::Changed("/a/b".to_owned())
    );
}

proptest! {
    #[test]
    fn canonical_paths_are_fixed_points(path in "/[a-c./%25\\\\ ~é]{0,24}") {
        for level in [NormPath::Base, NormPath::MergeSlashes] {
            let options = PathOptions::from(level);
            if let Normalized::Changed(once) = options.normalize(&path) {
                prop_assert_eq!(options.normalize(&once), Normalized::Unchanged, "{:?} of {:?}", once, path);
            }
        }
    }

    #[test]
    fn no_canonical_path_climbs(path in "/[a/.%2eE\\\\]{0,24}") {
        if let Normalized::Changed(path) = PathOptions::from(NormPath::Base).normalize(&path) {
            prop_assert!(path.split('/').all(|segment| segment != ".." && segment != "."), "{}", path);
        }
    }
}
