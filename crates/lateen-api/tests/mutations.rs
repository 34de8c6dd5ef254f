//! No input makes parsing, validating or rendering panic, and no finding points outside its file.
//!
//! A short, bounded form of `cargo run -p lateen-testkit --bin fuzz -- yaml`, over the same corpus.

use lateen_api::diagnostic::{Style, render};
use lateen_api::{SourceFile, parse_file, validate};
use proptest::prelude::*;

fn corpus() -> Vec<String> {
    let mut files: Vec<_> = std::fs::read_dir("corpus")
        .expect("the corpus is part of the crate")
        .map(|entry| entry.expect("its entries can be read").path())
        .collect();
    files.sort();
    let read = |path| String::from_utf8_lossy(&std::fs::read(path).expect("a file")).into_owned();
    files.into_iter().map(read).collect()
}

fn check(text: &str) {
    let parsed = parse_file(&SourceFile::new("test.yaml", text), "default");
    let validated = parsed
        .resources
        .iter()
        .chain(&parsed.refused)
        .flat_map(validate);
    for diagnostic in parsed.diagnostics.iter().cloned().chain(validated) {
        render(&diagnostic, Some(text), Style { color: true });
        if let Some(span) = &diagnostic.span {
            let (start, end) = (span.offset as usize, (span.offset + span.len) as usize);
            assert!(
                text.is_char_boundary(start) && text.is_char_boundary(end),
                "{diagnostic:?}"
            );
        }
    }
}

#[test]
fn the_corpus_itself_is_read() {
    corpus().iter().for_each(|text| check(text));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_text_never_panics(text in "[ -~\\n\\t:{}\\[\\]&*'\"é]{0,200}") {
        check(&text);
    }

    #[test]
    fn a_spliced_manifest_never_panics(
        which in any::<prop::sample::Index>(),
        at in any::<prop::sample::Index>(),
        cut in 0usize..40,
        insert in "[ -~\\n]{0,20}",
    ) {
        let corpus = corpus();
        let text: Vec<char> = which.get(&corpus).chars().collect();
        let at = at.index(text.len() + 1);
        let rest = (at + cut).min(text.len());
        let spliced: String = text[..at].iter().copied().chain(insert.chars()).chain(text[rest..].iter().copied()).collect();
        check(&spliced);
    }
}
