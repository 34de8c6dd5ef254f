//! Tests of the parser of command operators.

use super::*;

fn commands(text: &str) -> Vec<(String, String, Option<usize>)> {
    let format = Format::parse(text).unwrap();
    format
        .commands()
        .map(|c| (c.name.to_string(), c.argument.to_string(), c.max_length))
        .collect()
}

#[test]
fn operators_have_arguments_and_lengths() {
    assert_eq!(
        commands("[%START_TIME(%Y-%m-%d)%] %REQ(X?Y):10% %PROTOCOL%"),
        [
            ("START_TIME".to_owned(), "%Y-%m-%d".to_owned(), None),
            ("REQ".to_owned(), "X?Y".to_owned(), Some(10)),
            ("PROTOCOL".to_owned(), String::new(), None),
        ]
    );
}

#[test]
fn a_percent_sign_is_written_twice() {
    assert_eq!(Format::parse("100%%").unwrap().as_literal(), Some("100%"));
    assert_eq!(Format::parse("").unwrap().as_literal(), Some(""));
}

#[test]
fn what_is_no_operator_is_refused() {
    assert_eq!(
        Format::parse("a %REQ(x)"),
        Err(FormatError::Unterminated { at: 2 })
    );
    assert_eq!(
        Format::parse("%req%"),
        Err(FormatError::Invalid {
            text: "req".to_owned()
        })
    );
    assert!(Format::parse("100% of 5%").is_err());
    assert!(Format::parse("%REQ(x%").is_err());
}
