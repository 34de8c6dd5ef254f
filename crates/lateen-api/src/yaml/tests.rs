//! Text in, trees with spans out; and what is said of text that is no YAML.

use super::*;
use crate::tree::Tree;
use crate::value::Value;

fn one(text: &str) -> Document {
    let mut documents = documents(text);
    assert_eq!(documents.len(), 1, "{documents:?}");
    documents.remove(0)
}

fn value(text: &str) -> Value {
    let document = one(text);
    assert!(document.problems.is_empty(), "{:?}", document.problems);
    document.root.to_value()
}

fn json(text: &str) -> String {
    serde_json::to_string(&value(text)).unwrap()
}

fn problem(text: &str) -> Problem {
    let mut all: Vec<Problem> = documents(text)
        .into_iter()
        .flat_map(|d| d.problems)
        .collect();
    assert_eq!(all.len(), 1, "{all:?}");
    all.remove(0)
}

#[test]
fn plain_scalars_follow_yaml_1_1_as_kubernetes_reads_them() {
    assert_eq!(
        json(
            "[yes, off, 0755, 010, 0x1F, 0o17, 1_000, 1.5, 1e3, ~, null, '', abc, 12:30, 1.2.3, -4, +5, 09]"
        ),
        r#"[true,false,493,8,31,15,1000,1.5,1000.0,null,null,"","abc","12:30","1.2.3",-4,5,9.0]"#
    );
    assert_eq!(
        json("['yes', \"010\", !!str 5, !!int '5']"),
        r#"["yes","010","5",5]"#
    );
}

#[test]
fn keys_become_json_strings() {
    assert_eq!(json("{8080: a, 0x10: b}"), r#"{"16":"b","8080":"a"}"#);
    let document = one("{on: b}");
    assert_eq!(
        serde_json::to_string(&document.root.to_value()).unwrap(),
        r#"{"true":"b"}"#
    );
    assert!(!document.problems[0].is_error());
}

#[test]
fn every_document_start_begins_a_document() {
    let text = "# c\n---\n# only a comment\n---\na: 1\n---\nb: |\n  x\n--- {c: 3}\n...\n";
    let roots: Vec<Value> = documents(text).iter().map(|d| d.root.to_value()).collect();
    let shown: Vec<String> = roots
        .iter()
        .map(|v| serde_json::to_string(v).unwrap())
        .collect();
    assert_eq!(shown, [r#"{"a":1}"#, r#"{"b":"x\n"}"#, r#"{"c":3}"#]);
}

#[test]
fn a_syntax_error_costs_one_document() {
    let documents = documents("a: 1\n---\nb: [\n---\nc: 3\n");
    assert_eq!(documents.len(), 3);
    assert!(documents[0].problems.is_empty() && documents[2].problems.is_empty());
    assert_eq!(documents[1].problems[0].code, codes::SYNTAX);
}

#[test]
fn what_stands_before_a_syntax_error_is_kept() {
    let document = one("kind: Pod\nmetadata:\n  name: x\nspec: [}\n");
    assert_eq!(document.problems.len(), 1);
    assert_eq!(
        document
            .root
            .get("metadata")
            .unwrap()
            .get("name")
            .unwrap()
            .text(),
        Some("x")
    );
}

#[test]
fn spans_count_bytes_and_characters() {
    let text = "\u{feff}é: ü\r\nkey: väl  # c\r\n";
    let document = one(text);
    let entry = document.root.entry("key").unwrap();
    assert_eq!((entry.key_span.line, entry.key_span.column), (2, 1));
    let span = entry.value.span;
    assert_eq!(&text[span.start as usize..span.end as usize], "väl");
    assert_eq!((span.line, span.column), (2, 6));
}

#[test]
fn spans_in_a_later_document_are_the_files() {
    let text = "a: 1\n---\nb:\n  - c: x\n    d: y\ne: 1\n";
    let documents = documents(text);
    let list = documents[1].root.get("b").unwrap();
    let item = &list.items()[0];
    assert_eq!(
        &text[item.span.start as usize..item.span.end as usize],
        "c: x\n    d: y"
    );
    assert_eq!(item.span.line, 4);
}

#[test]
fn merge_keys_fill_in_what_is_not_set() {
    assert_eq!(
        json("base: &b {x: 1, w: 2}\nuse:\n  <<: *b\n  w: 3\nlist:\n  <<: [*b, {z: 4}]\n"),
        r#"{"base":{"w":2,"x":1},"list":{"w":2,"x":1,"z":4},"use":{"w":3,"x":1}}"#
    );
}

#[test]
fn an_alias_bomb_is_refused() {
    let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..12 {
        let below = format!("*a{}, ", level - 1).repeat(9);
        text.push_str(&format!("a{level}: &a{level} [{below}]\n"));
    }
    assert_eq!(problem(&text).code, codes::LIMIT);
}

#[test]
fn a_file_beyond_measure_is_not_read() {
    let text = " ".repeat(MAX_TEXT + 1);
    let found: Vec<&str> = documents(&text)
        .iter()
        .flat_map(|document| &document.problems)
        .map(|problem| problem.code)
        .collect();
    assert_eq!(found, [codes::LIMIT]);
}

#[test]
fn an_alias_to_what_holds_it_is_refused() {
    assert_eq!(problem("a: &a [*a]\n").code, codes::ALIAS);
}

#[test]
fn deep_nesting_is_refused() {
    assert_eq!(problem(&"[".repeat(200)).code, codes::LIMIT);
    assert_eq!(problem(&"- ".repeat(5000)).code, codes::LIMIT);
}

#[test]
fn duplicate_keys_are_reported_where_the_second_stands() {
    let found = problem("a: 1\nb:\n  c: 1\n  d: 2\n  c: 3\n");
    assert_eq!(
        (found.code, found.span.line, found.span.column),
        (codes::DUPLICATE_KEY, 5, 3)
    );
    let many: String = (0..100).map(|n| format!("k{n}: 1\n")).collect();
    assert_eq!(
        problem(&format!("{many}k50: 2\n")).code,
        codes::DUPLICATE_KEY
    );
}

#[test]
fn a_tab_in_the_indentation_is_named() {
    let found = problem("a:\n  b:\n\t\tc: 1\n");
    assert!(found.message.contains("tab"), "{found:?}");
    assert_eq!(found.span.line, 3);
}

#[test]
fn a_template_is_named() {
    let found = problem("metadata:\n  name: {{ .Values.name }}\n  {{- toYaml . }}\n");
    assert_eq!((found.code, found.span.line), (codes::TEMPLATE, 2));
}

#[test]
fn json_is_read() {
    let text =
        "{\n\t\"a\": [1, \"x\\u00e9\\/\", true, null],\n\t\"b\": {\"c\": \"\\ud83d\\ude00\"}\n}\n";
    assert_eq!(json(text), r#"{"a":[1,"xé/",true,null],"b":{"c":"😀"}}"#);
}

#[test]
fn a_missing_value_stands_at_its_key() {
    let document = one("a:\nb: 1\n");
    let a = document.root.get("a").unwrap();
    assert!(matches!(a.tree, Tree::Empty));
    assert_eq!((a.span.line, a.span.column), (1, 1));
}

#[test]
fn a_missing_separator_is_said_once() {
    let found = problem("kind: A\nmetadata: {}\nkind: B\nmetadata: {}\n");
    assert_eq!(
        (found.span.line, found.message.as_str()),
        (3, "a second object begins here, in the same document")
    );
}

#[test]
fn flow_collections_may_be_indented_like_their_key() {
    assert_eq!(
        json("a:\n  b: [\n    x,\n  ]\n  c: z\n"),
        r#"{"a":{"b":["x"],"c":"z"}}"#
    );
}

#[test]
fn a_colon_without_a_blank_belongs_to_the_text() {
    assert_eq!(
        json("a: [2001:db8::, ::, x, z:]\nb: [c: d, {e: f}, g: ]"),
        r#"{"a":["2001:db8::","::","x","z:"],"b":[{"c":"d"},{"e":"f"},{"g":null}]}"#
    );
}
