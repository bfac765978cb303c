//! The shop: its users, products and visitors' ways through it.

use rand_chacha::{ChaCha8Rng, rand_core::RngCore};

use crate::sources::random::{below, mixed};

/// Price range in cents of each category; a product's category is its number modulo their count.
const CATEGORIES: [(u64, u64); 6] = [(299, 1_499), (499, 2_999), (999, 4_999), (1_999, 9_999), (4_999, 49_999), (9_999, 149_999)];
/// Regions, the busiest first; a user keeps one.
const REGIONS: [(&str, u64); 4] = [("eu", 40), ("us", 30), ("apac", 20), ("latam", 10)];

/// Price of a product in cents: the same in every interval, pipeline and seed.
pub fn price_cents(product: u64) -> u64 {
    let (low, high) = CATEGORIES[(product % CATEGORIES.len() as u64) as usize];
    low + mixed(product) % (high - low + 1)
}

/// Region of a user: the same in every interval, pipeline and seed.
pub fn region(user: u64) -> &'static str {
    let mut place = mixed(user) % 100;
    for (name, share) in REGIONS {
        if place < share {
            return name;
        }
        place -= share;
    }
    REGIONS[0].0
}

/// What a visitor does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Looks at a product.
    View,
    /// Puts the product last looked at into the cart.
    AddToCart,
    /// Buys it.
    Purchase,
}

impl Step {
    /// The `event_type`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::View => "view",
            Self::AddToCart => "add_to_cart",
            Self::Purchase => "purchase",
        }
    }

    /// The next step of the Markov chain; none: the visitor leaves.
    fn next(self, rng: &mut ChaCha8Rng) -> Option<Self> {
        // Of 1000: how many look at another product, how many go on with this one; the others leave.
        let (view, onward, to) = match self {
            Self::View => (620, 220, Self::AddToCart),
            Self::AddToCart => (450, 330, Self::Purchase),
            Self::Purchase => (300, 0, Self::View),
        };
        match below(rng, 1000) {
            roll if roll < view => Some(Self::View),
            roll if roll < view + onward => Some(to),
            _ => None,
        }
    }
}

/// One visit.
#[derive(Clone, Copy, Debug)]
pub struct Session {
    /// Its id.
    pub id: u64,
    /// The user, from 1.
    pub user: u64,
    /// The product that the last step was about, from 1.
    pub product: u64,
    /// The last step.
    pub step: Step,
}

impl Session {
    /// A visit by some user, which begins with a look at a product.
    pub fn begin(rng: &mut ChaCha8Rng, users: u64, products: u64) -> Self {
        Self { id: rng.next_u64(), user: 1 + below(rng, users), product: some_product(rng, products), step: Step::View }
    }

    /// Goes one step on; false: the visitor leaves instead.
    pub fn advance(&mut self, rng: &mut ChaCha8Rng, products: u64) -> bool {
        let Some(step) = self.step.next(rng) else { return false };
        if step == Step::View {
            self.product = some_product(rng, products);
        }
        self.step = step;
        true
    }
}

/// A product, those with small numbers more often.
fn some_product(rng: &mut ChaCha8Rng, products: u64) -> u64 {
    1 + below(rng, products).min(below(rng, products))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_chacha::rand_core::SeedableRng;

    #[test]
    fn users_and_products_keep_region_and_price() {
        let regions: Vec<&str> = (1..=8).map(region).collect();
        assert_eq!(regions, (1..=8).map(region).collect::<Vec<_>>());
        for name in ["eu", "us", "apac", "latam"] {
            assert!((1..=1000).any(|user| region(user) == name), "no user of {name}");
        }
        assert!((0..1000).all(|product| (299..=149_999).contains(&price_cents(product))));
    }

    #[test]
    fn a_purchase_follows_an_add_to_cart_of_the_same_product() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let mut purchases = 0;
        for _ in 0..2_000 {
            let mut session = Session::begin(&mut rng, 10, 10);
            loop {
                let before = session;
                if !session.advance(&mut rng, 10) {
                    break;
                }
                match session.step {
                    Step::Purchase => {
                        purchases += 1;
                        assert_eq!((before.step, before.product), (Step::AddToCart, session.product));
                    }
                    Step::AddToCart => assert_eq!((before.step, before.product), (Step::View, session.product)),
                    Step::View => {}
                }
            }
        }
        assert!(purchases > 100, "{purchases}");
    }
}
