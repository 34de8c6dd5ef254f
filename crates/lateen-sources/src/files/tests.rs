//! Edits as users make them.

use std::fs;

use super::*;

struct Dir(tempfile::TempDir);

impl Dir {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a directory"))
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.0.path().join(name), text).expect("written");
    }

    fn reader(&self) -> Reader {
        Reader::new(vec![self.0.path().to_owned()], "default")
    }
}

fn service(name: &str, port: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{ports: [{{port: {port}}}]}}\n"
    )
}

/// `name:port` of every service in force.
fn services(loaded: &Loaded) -> Vec<String> {
    let mut found: Vec<String> = loaded
        .resources
        .iter()
        .filter_map(|r| Some((r, r.spec_as::<lateen_api::kube::Service>()?)))
        .map(|(r, s)| {
            format!(
                "{}:{}",
                r.meta.name,
                s.spec.ports.first().map_or(0, |p| p.port)
            )
        })
        .collect();
    found.sort();
    found
}

#[test]
fn nothing_is_published_when_nothing_changed() {
    let dir = Dir::new();
    dir.write("a.yaml", &service("a", "80"));
    let mut reader = dir.reader();
    assert!(reader.read().is_some());
    assert!(reader.read().is_none());
    dir.write("a.yaml", &service("a", "81"));
    assert_eq!(services(&reader.read().expect("changed")), ["a:81"]);
}

#[test]
fn an_invalid_edit_keeps_the_last_good_version_of_that_object_alone() {
    let dir = Dir::new();
    dir.write("all.yaml", &(service("a", "80") + &service("b", "80")));
    let mut reader = dir.reader();
    reader.read().expect("first");
    dir.write(
        "all.yaml",
        &(service("a", "[nonsense]") + &service("b", "90")),
    );
    let loaded = reader.read().expect("changed");
    assert_eq!(services(&loaded), ["a:80", "b:90"]);
    assert!(loaded.has_errors());
}

#[test]
fn a_syntax_error_takes_nothing_away() {
    let dir = Dir::new();
    dir.write("all.yaml", &(service("a", "80") + &service("b", "80")));
    let mut reader = dir.reader();
    reader.read().expect("first");
    dir.write(
        "all.yaml",
        &(service("a", "80") + "---\n{ this is : [not yaml\n"),
    );
    let loaded = reader.read().expect("changed");
    assert_eq!(services(&loaded), ["a:80", "b:80"]);
    assert!(loaded.has_errors());
}

#[test]
fn deleting_a_document_or_a_file_deletes_its_objects() {
    let dir = Dir::new();
    dir.write("a.yaml", &(service("a", "80") + &service("b", "80")));
    dir.write("c.yaml", &service("c", "80"));
    let mut reader = dir.reader();
    assert_eq!(
        services(&reader.read().expect("first")),
        ["a:80", "b:80", "c:80"]
    );
    assert_eq!(reader.again(), None);
    dir.write("a.yaml", &service("a", "80"));
    fs::remove_file(dir.0.path().join("c.yaml")).expect("removed");
    reader.read();
    std::thread::sleep(reader.again().expect("a second look"));
    assert_eq!(services(&reader.read().expect("changed")), ["a:80"]);
    assert_eq!(reader.again(), None);
}

#[test]
fn a_file_that_is_emptied_before_it_is_written_loses_nothing() {
    let dir = Dir::new();
    let both = |port: &str| service("a", port) + &service("b", port);
    dir.write("a.yaml", &both("80"));
    let mut reader = dir.reader();
    reader.read().expect("first");
    dir.write("a.yaml", "");
    let emptied = reader.read().expect("changed");
    assert_eq!(services(&emptied), ["a:80", "b:80"]);
    dir.write("a.yaml", &service("a", "90"));
    let half = reader.read().expect("changed");
    assert_eq!(services(&half), ["a:90", "b:80"]);
    dir.write("a.yaml", &both("90"));
    let whole = reader.read().expect("changed");
    assert_eq!(services(&whole), ["a:90", "b:90"]);
    assert_eq!(reader.again(), None, "nothing is missing any more");
}

#[test]
fn a_file_that_is_renamed_keeps_its_objects_and_none_is_there_twice() {
    let dir = Dir::new();
    dir.write("a.yaml", &service("a", "80"));
    let mut reader = dir.reader();
    reader.read().expect("first");
    fs::rename(dir.0.path().join("a.yaml"), dir.0.path().join("b.yaml")).expect("renamed");
    let renamed = reader.read().expect("changed");
    assert_eq!(services(&renamed), ["a:80"]);
    assert_eq!(renamed.diagnostics, []);
    assert_eq!(reader.again(), None);
}

#[test]
fn of_two_documents_with_one_name_the_later_file_wins_and_says_so() {
    let dir = Dir::new();
    dir.write("1.yaml", &service("a", "80"));
    dir.write("2.yaml", &service("a", "90"));
    let loaded = dir.reader().read().expect("first");
    assert_eq!(services(&loaded), ["a:90"]);
    assert!(loaded.diagnostics.iter().any(|d| d.code == "LAT0502"));
}

#[test]
fn hidden_files_and_editors_leavings_are_not_read() {
    let dir = Dir::new();
    dir.write(".a.yaml.swp", "{");
    dir.write("a.yaml~", "{");
    dir.write("notes.txt", "{");
    let loaded = dir.reader().read().unwrap_or_default();
    assert!(loaded.resources.is_empty() && loaded.diagnostics.is_empty());
}

#[test]
fn a_path_that_is_not_there_is_an_error_with_its_name() {
    let mut reader = Reader::new(vec![PathBuf::from("/nowhere/at-all")], "default");
    let loaded = reader.read().expect("a diagnostic");
    assert!(loaded.has_errors());
    assert!(loaded.diagnostics[0].message.contains("/nowhere/at-all"));
}
