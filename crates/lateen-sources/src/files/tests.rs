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

#[test]
fn a_directory_that_cannot_be_looked_into_takes_nothing_away() {
    let dir = Dir::new();
    let below = dir.0.path().join("below");
    fs::create_dir(&below).expect("made");
    fs::write(below.join("a.yaml"), service("a", "80")).expect("written");
    let mut reader = Reader::new(vec![below.clone()], "default");
    reader.read().expect("first");
    fs::rename(&below, dir.0.path().join("elsewhere")).expect("renamed");
    let loaded = reader.read().expect("changed");
    assert_eq!(services(&loaded), ["a:80"]);
    assert!(loaded.has_errors());
    assert!(reader.read().is_none(), "told once");
    fs::create_dir(&below).expect("made again");
    reader.read();
    std::thread::sleep(reader.again().expect("a second look"));
    let emptied = reader.read().expect("changed");
    assert_eq!((services(&emptied), emptied.has_errors()), (vec![], false));
}

/// The object of a name, to be compared with one of another version by pointer.
fn object<'a>(loaded: &'a Loaded, name: &str) -> &'a Resource {
    let mut all = loaded.resources.iter();
    all.find(|r| r.name() == name).expect("an object")
}

#[test]
fn what_an_edit_leaves_as_it_was_stays_the_same_object() {
    let dir = Dir::new();
    let (a, b, c) = (service("a", "80"), service("b", "80"), service("c", "80"));
    dir.write("all.yaml", &format!("{a}{b}{c}"));
    dir.write("other.yaml", &service("d", "80"));
    let mut reader = dir.reader();
    let first = reader.read().expect("first");
    dir.write("all.yaml", &format!("{a}{}{c}", service("b", "90")));
    let second = reader.read().expect("changed");
    assert_eq!(services(&second), ["a:80", "b:90", "c:80", "d:80"]);
    let is_same = |name| is_same_place(object(&first, name), object(&second, name));
    assert_eq!(["a", "b", "c", "d"].map(is_same), [true, false, true, true]);
    let [old, new] = [&first, &second].map(|loaded| loaded.resources.blocks());
    assert!(Arc::ptr_eq(&old[1], &new[1]), "the other file's block");
    // Everything moves down by a line: what is said is the same, where it is written is not.
    dir.write("all.yaml", &format!("# more\n{a}{b}{c}"));
    let third = reader.read().expect("changed");
    let (old, new) = (object(&first, "a"), object(&third, "a"));
    assert!(Arc::ptr_eq(&old.meta, &new.meta) && Arc::ptr_eq(&old.spec, &new.spec));
    let line = |object: &Resource| object.file_span("metadata").line;
    assert_eq!(line(new), line(old) + 1);
}

#[test]
fn a_file_is_read_again_only_if_it_may_be_another() {
    let old = Duration::from_secs(1_000_000);
    let dir = Dir::new();
    dir.write("a.yaml", &service("a", "80"));
    let stamp = |dir: &Dir| {
        let found = Found::below(&[dir.0.path().to_owned()]);
        found.files.into_values().next().flatten().expect("a stamp")
    };
    let first = stamp(&dir);
    let now = SystemTime::now();
    assert_eq!(first.settled(now), None, "written just now");
    assert_eq!(first.settled(now + old), Some(first));
    assert_eq!(stamp(&dir), first);
    dir.write("a.yaml", &service("a", "8080"));
    assert_ne!(stamp(&dir), first);

    let mut reader = dir.reader();
    reader.read().expect("first");
    let cached = reader.cache.values_mut().next().expect("a file");
    // A text that is not the file's shows whether the file was read.
    cached.stamp = Some(stamp(&dir));
    cached.file.text = "".into();
    assert!(reader.read().is_none());
    reader.cache.values_mut().for_each(|file| file.stamp = None);
    assert!(reader.read().is_some());
}

/// Everything that a version tells, but for what is kept in which block.
fn told(loaded: &Loaded) -> (BTreeMap<String, (Resource, u32)>, Vec<Diagnostic>) {
    let place = |r: &Resource| (r.clone(), r.file_span("spec").line);
    let objects = loaded.resources.iter();
    let objects = objects.map(|r| (r.key().to_string(), place(r)));
    (objects.collect(), loaded.diagnostics.clone())
}

#[test]
fn edits_one_by_one_come_to_what_reading_it_all_anew_does() {
    let mut seed = 7_u64;
    let mut random = |below: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (seed >> 33) % below
    };
    let dir = Dir::new();
    let mut reader = dir.reader();
    for step in 0..40 {
        let mut touched = BTreeSet::new();
        for _ in 0..=random(2) {
            let file = format!("{}.yaml", random(4));
            touched.insert(dir.0.path().join(&file));
            let documents = (0..random(4)).map(|_| {
                let port = ["80", "90", "100"][random(3) as usize];
                // Mostly in a file of its own, so that few names are in two.
                let name = format!("s{file}{}", random(3)).replace(".yaml", "-");
                service(if random(9) == 0 { "common" } else { &name }, port)
            });
            let text: String = documents.collect();
            match random(8) {
                0 => drop(fs::remove_file(dir.0.path().join(&file))),
                _ => dir.write(&file, &text),
            }
        }
        let mut last = match random(4) {
            0 => reader.read(),
            _ => reader.read_touched(&touched),
        };
        while let Some(pause) = reader.again() {
            std::thread::sleep(pause);
            last = reader.read().or(last);
        }
        let Some(last) = last else { continue };
        let anew = dir.reader().read().unwrap_or_default();
        assert_eq!(told(&last), told(&anew), "step {step}");
    }
}

#[test]
fn what_was_touched_is_looked_at_and_nothing_else() {
    let dir = Dir::new();
    let path = |name: &str| dir.0.path().join(name);
    let a = path("a.yaml");
    dir.write("a.yaml", &service("a", "80"));
    dir.write("b.yaml", &service("b", "80"));
    let mut reader = dir.reader();
    reader.read().expect("first");
    dir.write("a.yaml", &service("a", "81"));
    dir.write("b.yaml", &service("b", "81"));
    let touch = |paths: &[&PathBuf]| paths.iter().copied().cloned().collect::<BTreeSet<_>>();
    let edited = reader.read_touched(&touch(&[&a])).expect("changed");
    assert_eq!(services(&edited), ["a:81", "b:80"]);
    assert!(reader.read_touched(&touch(&[&a, &path("4913")])).is_none());
    // A new one, and one that is gone.
    dir.write("c.yaml", &service("c", "80"));
    let added = reader.read_touched(&touch(&[&path("c.yaml")]));
    assert_eq!(services(&added.expect("changed")), ["a:81", "b:80", "c:80"]);
    fs::remove_file(path("c.yaml")).expect("removed");
    reader
        .read_touched(&touch(&[&path("c.yaml")]))
        .expect("changed");
    // What is missing is in whatever was not looked at, so everything is.
    let all = reader.read_touched(&touch(&[&a])).expect("changed");
    assert_eq!(services(&all), ["a:81", "b:81", "c:80"]);
}

#[test]
fn what_a_path_does_not_tell_is_looked_for_everywhere() {
    let (dir, elsewhere) = (Dir::new(), Dir::new());
    dir.write("a.yaml", &service("a", "80"));
    let mut reader = dir.reader();
    reader.read().expect("first");
    let below = dir.0.path().join("below");
    fs::create_dir(&below).expect("made");
    let said = |path: &Path| BTreeSet::from([path.to_owned()]);
    for (touched, port) in [
        (below.clone(), "81"),
        (dir.0.path().join(".data"), "82"),
        (elsewhere.0.path().join("a.yaml"), "83"),
    ] {
        dir.write("a.yaml", &service("a", port));
        let loaded = reader.read_touched(&said(&touched)).expect("changed");
        assert_eq!(services(&loaded), [format!("a:{port}")]);
    }
    // A link may lead to what was touched.
    elsewhere.write("x", &service("x", "80"));
    let link = below.join("x.yaml");
    std::os::unix::fs::symlink(elsewhere.0.path().join("x"), &link).expect("linked");
    reader.read_touched(&said(&link)).expect("changed");
    elsewhere.write("x", &service("x", "81"));
    let loaded = reader.read_touched(&said(&dir.0.path().join("a.yaml")));
    assert_eq!(services(&loaded.expect("changed")), ["a:83", "x:81"]);
}
