//! What an edit left as it was: the objects of a file that are written as before are the ones there were, so that whoever compares by
//! pointer sees what was edited and nothing else.

use std::collections::HashMap;
use std::sync::Arc;

use lateen_api::span::Span;
use lateen_api::{Kind, Parsed, Resource, SourceFile};

/// Puts the old objects in the place of new ones that are the same, and shares what they have in common with others.
pub(super) fn share(new: &mut Parsed, text: &str, old: &Parsed, old_file: &SourceFile) {
    let known = old.resources.iter().map(|object| (key(object), object));
    let known: HashMap<_, _> = known.collect();
    for object in &mut new.resources {
        let found = known.get(&key(object)).copied();
        let Some(old) = found.filter(|old| *old == &*object) else {
            continue;
        };
        object.meta = Arc::clone(&old.meta);
        object.spec = Arc::clone(&old.spec);
        if is_written_alike((old, &old_file.text), (object, text)) {
            object.origin = Arc::clone(&old.origin);
        }
    }
}

fn key(object: &Resource) -> (Kind, &str, &str) {
    (object.kind, object.namespace(), object.name())
}

/// Whether two objects that say the same stand at the same place in their file's versions, letter by letter.
fn is_written_alike(old: (&Resource, &str), new: (&Resource, &str)) -> bool {
    let (old, new) = (written(old.0, old.1), written(new.0, new.1));
    old.is_some() && old == new
}

/// Where and how an object is written in its file's text.
fn written<'a>(object: &Resource, text: &'a str) -> Option<(Span, u32, bool, &'a str)> {
    let (origin, span) = (&object.origin, object.origin.root.span);
    let range = usize::try_from(span.start).ok()?..usize::try_from(span.end).ok()?;
    Some((span, origin.document, origin.truncated, text.get(range)?))
}

/// Whether two objects are one, with what they are called and where they were written.
pub fn is_same_place(one: &Resource, other: &Resource) -> bool {
    Arc::ptr_eq(&one.meta, &other.meta)
        && Arc::ptr_eq(&one.spec, &other.spec)
        && Arc::ptr_eq(&one.origin, &other.origin)
}
