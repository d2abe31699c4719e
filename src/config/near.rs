//! What somebody may have meant who has mistyped a name.

/// The nearest of these names, if one is near enough to be meant: a typing error in every three letters.
///
/// By hand, because `strsim` for one distance is more code than the distance.
pub fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // Whoever typed more has not mistyped a name, and the work grows with the square.
    if name.len() > 64 {
        return None;
    }
    let near = known.into_iter().map(|other| (distance(name, other), other)).min_by_key(|(steps, _)| *steps)?;
    let most = name.chars().count().div_ceil(3).min(3);
    (near.0 <= most && near.0 > 0).then_some(near.1)
}

/// So many letters were left out, put in, replaced or swapped with the next (the optimal string alignment).
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let (mut above, mut row): (Vec<usize>, Vec<usize>) = (Vec::new(), (0..=b.len()).collect());
    let mut before = None;
    for (down, letter) in (1usize..).zip(&a) {
        let mut next = vec![down];
        let mut left = down;
        for (across, other) in (0usize..).zip(&b) {
            let at = |row: &[usize], place: usize| row.get(place).copied().unwrap_or(usize::MAX);
            let same = at(&row, across).saturating_add(usize::from(letter != other));
            let mut steps = same.min(left.saturating_add(1)).min(at(&row, across.saturating_add(1)).saturating_add(1));
            if let Some(place) = across.checked_sub(1)
                && before == Some(other)
                && b.get(place) == Some(letter)
            {
                steps = steps.min(at(&above, place).saturating_add(1));
            }
            next.push(steps);
            left = steps;
        }
        before = Some(letter);
        above = std::mem::replace(&mut row, next);
    }
    row.last().copied().unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typing_error_in_three_letters_is_near_and_another_word_is_not() {
        let known = ["endpoint", "model", "weight", "max_ttl_ms", "max_execution_ms"];
        for (typed, meant) in [
            ("wieght", Some("weight")),
            ("weigth", Some("weight")),
            ("wight", Some("weight")),
            ("endpoints", Some("endpoint")),
            ("maxttlms", Some("max_ttl_ms")),
            ("modle", Some("model")),
            ("weight", None),
            ("colour", None),
            ("", None),
            ("x", None),
        ] {
            assert_eq!(nearest(typed, known), meant, "{typed}");
        }
        assert_eq!(nearest(&"w".repeat(65), known), None);
        assert_eq!((distance("", "abc"), distance("abc", ""), distance("ab", "ba")), (3, 3, 1));
    }
}
