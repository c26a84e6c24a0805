//! What limits let in, and where the adaptive one comes to rest before a service whose capacity is known.
#![allow(clippy::unwrap_used)]

use super::*;

const MS: u64 = 1_000_000;

fn adaptive(min: u32, max: u32) -> Arc<Concurrency> {
    let settings = AdaptiveSettings { min, max, tolerance: 1.5, window: Duration::from_millis(100) };
    Arc::new(Concurrency::new(None, Some(settings)))
}

/// A service that does `capacity` requests at a time, each in `base_ms`; what is above waits. `demand` are always at the
/// door. Runs so many windows.
struct Service {
    capacity: f64,
    base_ms: f64,
    demand: usize,
    now_ns: u64,
}

impl Service {
    fn new(capacity: f64, base_ms: f64, demand: usize) -> Self {
        Self { capacity, base_ms, demand, now_ns: MS }
    }

    fn run(&mut self, concurrency: &Arc<Concurrency>, windows: usize) -> u32 {
        for _ in 0..windows {
            let slots: Vec<_> = std::iter::repeat_with(|| concurrency.enter())
                .map_while(|slot| slot)
                .take(self.demand)
                .collect();
            let ms = self.base_ms * (slots.len() as f64 / self.capacity).max(1.0);
            self.now_ns += 101 * MS;
            for slot in slots {
                slot.finish(Duration::from_secs_f64(ms / 1000.0), false, self.now_ns);
            }
            // Few at a time need more than one round to make a window.
            for _ in 0..LEAST_SAMPLES {
                concurrency.enter().unwrap().finish(Duration::from_secs_f64(ms / 1000.0), false, self.now_ns);
            }
        }
        concurrency.limit()
    }
}

#[test]
fn no_more_than_max_requests_enter() {
    let concurrency = Arc::new(Concurrency::new(Some(2), None));
    let (first, _second) = (concurrency.enter().unwrap(), concurrency.enter().unwrap());
    assert!(concurrency.enter().is_none());
    drop(first);
    let third = concurrency.enter().unwrap();
    assert_eq!(concurrency.in_flight(), 2);
    third.finish(Duration::ZERO, false, 1);
    assert_eq!(concurrency.in_flight(), 1);
    assert_eq!(Concurrency::new(None, None).limit(), u32::MAX);
    let both = AdaptiveSettings { min: 1, max: 100, tolerance: 1.5, window: Duration::from_millis(100) };
    assert_eq!(Concurrency::new(Some(3), Some(both)).limit(), 3);
}

#[test]
fn it_comes_to_rest_a_little_above_what_the_service_can_do() {
    for capacity in [10.0, 50.0, 400.0] {
        let concurrency = adaptive(4, 5000);
        let limit = f64::from(Service::new(capacity, 10.0, 10_000).run(&concurrency, 2000));
        assert!(
            limit >= capacity && limit <= capacity * 1.5 + 2.5 * capacity.sqrt() + 4.0,
            "{capacity}: {limit}"
        );
    }
}

#[test]
fn it_doesnt_grow_where_nobody_needs_it() {
    for demand in [3, 50] {
        let limit = Service::new(1000.0, 10.0, demand).run(&adaptive(4, 5000), 500) as usize;
        assert!(limit >= demand && limit <= demand * 4, "{demand}: {limit}");
    }
}

#[test]
fn it_keeps_its_bounds() {
    assert_eq!(Service::new(1e9, 10.0, 10_000).run(&adaptive(4, 60), 2000), 60);
    let concurrency = adaptive(30, 1000);
    assert_eq!(concurrency.limit(), 30);
    assert!(Service::new(2.0, 10.0, 10_000).run(&concurrency, 500) >= 30);
}

#[test]
fn a_service_that_became_slower_for_good_gets_its_limit_back() {
    let concurrency = adaptive(4, 1000);
    let mut service = Service::new(100.0, 10.0, 10_000);
    let before = service.run(&concurrency, 1000);
    service.base_ms = 60.0;
    assert!(service.run(&concurrency, 30) < before / 2);
    assert!(service.run(&concurrency, 1000) >= 100);
}

#[test]
fn a_service_that_lost_capacity_gets_less() {
    let concurrency = adaptive(4, 1000);
    let mut service = Service::new(200.0, 10.0, 10_000);
    service.run(&concurrency, 1000);
    service.capacity = 20.0;
    let after = service.run(&concurrency, 100);
    assert!((20..60).contains(&after), "{after}");
}

#[test]
fn lost_requests_lower_it() {
    let concurrency = adaptive(4, 1000);
    let mut service = Service::new(500.0, 10.0, 10_000);
    assert!(service.run(&concurrency, 500) >= 500);
    for window in 1_000..1_050 {
        for _ in 0..20 {
            concurrency.enter().unwrap().finish(Duration::from_millis(10), true, window * 101 * MS);
        }
    }
    assert!(concurrency.limit() < 10, "{}", concurrency.limit());
}
