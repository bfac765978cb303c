//! Kubernetes quantities, as far as one has to be held against another: `100m`, `1.5Gi`, `3e6`.

/// Whether `left` is more than `right`; no, where one of them is no quantity: the API server says then which, and why.
pub fn exceeds(left: &str, right: &str) -> bool {
    matches!((amount(left), amount(right)), (Some(left), Some(right)) if left > right)
}

/// The number that a quantity stands for. An `f64` tells any two apart that differ by more than a byte in eight pebibytes.
fn amount(quantity: &str) -> Option<f64> {
    let end = quantity.find(|c: char| !c.is_ascii_digit() && !['.', '+', '-'].contains(&c)).unwrap_or(quantity.len());
    let (number, suffix) = quantity.split_at(end);
    let factor = match suffix {
        "" => 1.0,
        "n" => 1e-9,
        "u" => 1e-6,
        "m" => 1e-3,
        "k" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        "T" => 1e12,
        "P" => 1e15,
        "E" => 1e18,
        "Ki" => 2_f64.powi(10),
        "Mi" => 2_f64.powi(20),
        "Gi" => 2_f64.powi(30),
        "Ti" => 2_f64.powi(40),
        "Pi" => 2_f64.powi(50),
        "Ei" => 2_f64.powi(60),
        exponent => 10_f64.powi(exponent.strip_prefix(['e', 'E'])?.parse().ok()?),
    };
    Some(number.parse::<f64>().ok()? * factor)
}

#[cfg(test)]
mod tests {
    use super::exceeds;

    #[test]
    fn quantities_are_held_against_each_other_in_any_notation() {
        // In this order.
        let ascending = [
            "-1", "0", "100n", "1u", "1m", "0.1", "500m", "1", "2k", "2Ki", "1e4", "1M", "1Mi", "3E6", "64Mi", "1.5Gi", "2G", "1T", "1Ei",
            "2E",
        ];
        for (place, low) in ascending.iter().enumerate() {
            assert!(!exceeds(low, low), "{low}");
            for high in &ascending[place + 1..] {
                assert!(exceeds(high, low) && !exceeds(low, high), "{low} {high}");
            }
        }
        for (one, other) in [("1024Mi", "1Gi"), ("1000m", "1"), ("1e3", "1k"), ("+5", "5")] {
            assert!(!exceeds(one, other) && !exceeds(other, one), "{one} {other}");
        }
    }

    #[test]
    fn what_is_no_quantity_exceeds_nothing() {
        for odd in ["", "much", "1 Gi", "1gi", "e3", "1e", "1.2.3", "--1"] {
            assert!(!exceeds(odd, "1") && !exceeds("1", odd), "{odd}");
        }
    }
}
