//! The map beside the standard library's, over long random lives; and that comparing relatives is cheap.

use std::cell::Cell;
use std::collections::BTreeMap;

use super::*;

type Map = SharedMap<u32, u32>;

/// A fixed sequence of numbers that looks random.
fn numbers(seed: u64) -> impl Iterator<Item = u32> {
    let mut state = seed;
    std::iter::repeat_with(move || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        u32::try_from(state >> 40).unwrap()
    })
}

#[test]
fn it_does_what_an_ordered_map_does() {
    let mut map = Map::new();
    let mut known = BTreeMap::new();
    let mut numbers = numbers(7);
    for step in 0..20_000 {
        let key = numbers.next().unwrap() % 700;
        // Grows, then shrinks to nothing.
        if step < 10_000 && !key.is_multiple_of(3) {
            assert_eq!(map.insert(key, step), known.insert(key, step));
        } else {
            assert_eq!(map.remove(&key), known.remove(&key));
        }
        assert_eq!(map.len(), known.len());
    }
    assert!(map.iter().eq(known.iter()));
    assert!((0..700).all(|key| map.get(&key) == known.get(&key)));
    assert!((0..701).all(|key| map.iter_from(&key).eq(known.range(key..))));
    assert!((0..701).all(|key| map.iter_after(|k| *k < key).eq(known.range(key..))));
    let sizes: Vec<usize> = map.chunks.iter().map(|chunk| chunk.len()).collect();
    assert!(
        sizes.iter().all(|size| (1..=MOST).contains(size)),
        "{sizes:?}"
    );
}

#[test]
fn the_differences_are_what_has_to_be_done() {
    let mut numbers = numbers(11);
    for _ in 0..200 {
        let size = numbers.next().unwrap() % 500;
        let old: Map = numbers
            .by_ref()
            .take(size as usize)
            .map(|n| (n % 900, n % 3))
            .collect();
        let mut new = old.clone();
        for n in numbers.by_ref().take(12) {
            if n.is_multiple_of(2) {
                new.insert(n % 900, n % 5);
            } else {
                new.remove(&(n % 900));
            }
        }
        let mut made = old.clone();
        for difference in old.differences(&new) {
            match difference.new {
                Some(value) => drop(made.insert(*difference.key, *value)),
                None => drop(made.remove(difference.key)),
            }
        }
        assert!(made.iter().eq(new.iter()));
        assert_eq!(made, new);
        assert_eq!(old == new, old.iter().eq(new.iter()));
    }
}

#[test]
fn of_equal_keys_the_last_stays() {
    let map: Map = [(2, 1), (1, 1), (2, 2), (1, 3), (2, 3)]
        .into_iter()
        .collect();
    assert!(map.iter().eq([(&1, &3), (&2, &3)]));
}

#[test]
fn one_change_among_many_is_found_by_looking_at_few() {
    thread_local!(static COMPARED: Cell<usize> = const { Cell::new(0) });
    #[derive(Clone, Debug)]
    struct Counted(u32);
    impl PartialEq for Counted {
        fn eq(&self, other: &Self) -> bool {
            COMPARED.set(COMPARED.get() + 1);
            self.0 == other.0
        }
    }
    let old: SharedMap<u32, Counted> = (0..10_000).map(|n| (n, Counted(n))).collect();
    let mut new = old.clone();
    new.insert(5_000, Counted(1));
    new.insert(7_777_777, Counted(1));
    let keys: Vec<u32> = old.differences(&new).map(|found| *found.key).collect();
    assert_eq!(keys, [5_000, 7_777_777]);
    assert!(COMPARED.get() <= 2 * MOST, "{}", COMPARED.get());
}

#[test]
fn neighbours_of_what_is_not_there_are_found_by_what_comes_before() {
    let map: SharedMap<u32, u32> = (0..300).map(|n| (n * 2, n)).collect();
    for wanted in [0_u32, 1, 63, 64, 65, 300, 598, 599] {
        let [before, after] = map.around(|key, _| *key < wanted);
        assert_eq!(before, map.keys().filter(|k| **k < wanted).last());
        assert_eq!(after, map.keys().find(|k| **k >= wanted));
    }
    let empty = SharedMap::<u32, u32>::new();
    assert_eq!(empty.around(|_, _| true), [None, None]);
}
