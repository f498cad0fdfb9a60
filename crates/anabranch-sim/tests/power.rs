//! Power loss at every write and sync of every workload: a sample of the states that it may leave.

use std::thread;

use anabranch_sim::{Effort, PowerBug, PowerReport, Workload};

/// The reports of all workloads whose name fits, made on as many threads as the tests may use.
fn lose_power(effort: Effort, planted: PowerBug, fits: fn(&str) -> bool) -> Vec<PowerReport> {
    let workloads: Vec<_> = Workload::all().into_iter().filter(|workload| fits(workload.name)).collect();
    let halves = workloads.chunks(workloads.len().div_ceil(2));
    thread::scope(|scope| {
        let run = |half: Vec<Workload>| {
            scope.spawn(move || half.iter().map(|workload| workload.lose_power(effort, planted)).collect::<Vec<_>>())
        };
        let threads: Vec<_> = halves.map(|half| run(half.to_vec())).collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("no panic")).collect()
    })
}

fn print(reports: &[PowerReport]) {
    for report in reports {
        println!("{report}");
    }
}

#[test]
fn g02_g03_g05_nothing_promised_is_lost_and_nothing_is_torn_when_the_power_fails() {
    let reports = lose_power(Effort::QUICK, PowerBug::Nothing, |_| true);
    print(&reports);
    let failed: Vec<_> = reports.iter().filter_map(|report| Some((report.name, report.failure.as_ref()?))).collect();
    assert!(failed.is_empty(), "{failed:#?}");
    assert!(reports.len() >= 20, "{} workloads", reports.len());
    for report in &reports {
        assert!(report.images > 10 && report.syncs > 0 && report.commits > 0, "{report}");
    }
}

#[test]
fn a_log_that_is_not_synced_is_found() {
    let some = |name: &str| name.contains("creations") || name.contains("server: pushes");
    let reports = lose_power(Effort::QUICK, PowerBug::NoLogSync, some);
    print(&reports);
    assert_eq!(reports.len(), 3);
    for report in &reports {
        let failure = report.failure.as_deref().unwrap_or_default();
        assert!(failure.contains("had been reported as done"), "{report}");
    }
}

#[test]
fn a_file_that_is_not_synced_before_its_log_goes_is_found() {
    let reports = lose_power(Effort::QUICK, PowerBug::NoFileSync, |name| name.contains("checkpoints"));
    print(&reports);
    assert_eq!(reports.len(), 2);
    assert!(reports.iter().all(|report| report.failure.is_some()));
}
