//! Which of many strings begin, or end, a value: in the time of a look into a sorted list, however many there are.
//!
//! Of all entries that are not greater than a value, the greatest either begins it or has all that do among its own
//! beginnings. Used by `index`.

use std::cmp::Ordering;

/// Strings with what is noted at each.
#[derive(Debug, Default)]
pub struct Prefixes {
    /// Sorted.
    entries: Box<[Entry]>,
    /// Compared from the end.
    reversed: bool,
}

#[derive(Debug)]
struct Entry {
    text: Box<[u8]>,
    /// The longest other entry that begins this one.
    parent: Option<u32>,
    noted: Box<[u32]>,
}

impl Prefixes {
    /// Of beginnings, or with `reversed` of ends, in any order.
    pub fn new(found: impl IntoIterator<Item = (Box<[u8]>, Vec<u32>)>, reversed: bool) -> Self {
        let mut entries: Vec<Entry> = found
            .into_iter()
            .map(|(text, noted)| Entry { text, parent: None, noted: noted.into() })
            .collect();
        entries.sort_by(|a, b| compare(&a.text, &b.text, reversed));
        // Those that begin the entry at hand, the longest last.
        let mut open: Vec<u32> = Vec::new();
        for at in 0..entries.len() {
            while let Some(last) = open.last()
                && !begins(&entries[*last as usize].text, &entries[at].text, reversed)
            {
                open.pop();
            }
            entries[at].parent = open.last().copied();
            open.push(u32::try_from(at).unwrap_or(u32::MAX));
        }
        Self { entries: entries.into(), reversed }
    }

    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Tells of everything that is noted.
    pub fn all(&self, tell: &mut impl FnMut(u32)) {
        self.entries.iter().flat_map(|entry| &entry.noted).for_each(|noted| tell(*noted));
    }

    /// Tells of everything that is noted at entries that begin, or end, `value`.
    pub fn find(&self, value: &[u8], tell: &mut impl FnMut(u32)) {
        let behind =
            self.entries.partition_point(|e| compare(&e.text, value, self.reversed) != Ordering::Greater);
        let mut next = behind.checked_sub(1);
        while let Some(entry) = next.and_then(|at| self.entries.get(at)) {
            if begins(&entry.text, value, self.reversed) {
                entry.noted.iter().for_each(|noted| tell(*noted));
            }
            next = entry.parent.map(|parent| parent as usize);
        }
    }
}

fn compare(a: &[u8], b: &[u8], reversed: bool) -> Ordering {
    if reversed { a.iter().rev().cmp(b.iter().rev()) } else { a.cmp(b) }
}

fn begins(part: &[u8], whole: &[u8], reversed: bool) -> bool {
    if reversed { whole.ends_with(part) } else { whole.starts_with(part) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn all_that_begin_or_end_a_value_are_found_and_no_others(
            texts in prop::collection::btree_set("[ab]{0,6}", 0..40),
            value in "[ab]{0,8}",
            reversed: bool,
        ) {
            let texts: Vec<String> = texts.into_iter().collect();
            let entry = |(at, text): (usize, &String)| (text.clone().into_bytes().into(), vec![at as u32]);
            let prefixes = Prefixes::new(texts.iter().enumerate().map(entry), reversed);
            let mut found = Vec::new();
            prefixes.find(value.as_bytes(), &mut |at| found.push(at));
            found.sort_unstable();
            let fits = |text: &String| if reversed { value.ends_with(text) } else { value.starts_with(text) };
            let want: Vec<u32> = (0..texts.len()).filter(|at| fits(&texts[*at])).map(|at| at as u32).collect();
            prop_assert_eq!(found, want);
        }
    }
}
