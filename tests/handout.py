"""The order in which the processes of `make test` take the files. Each takes whole ones: the long
ones must not come last."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

HERE = Path(__file__).parent
LONG = (
    "kernel/test_older_job.py",
    "test_web_browser.py",
    "kernel/test_faults_daemon.py",
    "kernel/test_one_record.py",
    "kernel/test_main_job.py",
    "kernel/test_fastpath_losses.py",
    "kernel/test_twelve_prompts.py",
    "test_web_audit.py",
    "kernel/test_traffic_classes.py",
    "test_tui.py",
    "kernel/test_explain_live.py",
    "kernel/test_cost_job.py",
    "kernel/test_links_job.py",
    "test_packaging.py",
    "kernel/test_faults_ruleset.py",
    "kernel/test_older_untracked.py",
    "kernel/test_answer_times.py",
    "kernel/test_full_screen.py",
    "kernel/test_audit_job.py",
    "kernel/test_fastpath_owners.py",
    "kernel/test_floods.py",
    "kernel/test_faults_world.py",
    "kernel/test_firewall_denied.py",
    "test_tui_tabs.py",
    "kernel/test_firewall_marks.py",
    "kernel/test_firewall.py",
    "kernel/test_twelve.py",
    "kernel/test_fastpath_changes.py",
    "test_fastpath_module.py",
    "kernel/test_service_job.py",
    "kernel/test_disk_job.py",
    "test_store_pruning.py",
    "test_store_retention.py",
    "kernel/test_profiles_job.py",
    "kernel/test_run_via.py",
    "test_rules_review_pty.py",
    "kernel/test_sinks_job.py",
    "kernel/test_lab.py",
    "kernel/test_fastpath.py",
    "kernel/test_links_command.py",
    "test_archive.py",
    "test_tui_screens.py",
    "test_layout.py",
    "kernel/test_soak.py",
    "kernel/test_learning.py",
    "test_build.py",
    "kernel/test_routes.py",
    "test_store_writer.py",
    "kernel/test_sim_job.py",
    "kernel/test_names_job.py",
    "kernel/test_nobody_there.py",
    "kernel/test_killed_job.py",
    "test_store_usage.py",
    "kernel/test_flapping.py",
    "kernel/test_link_down.py",
    "kernel/test_firewall_applied.py",
    "test_vm.py",
    "kernel/test_web_job.py",
    "test_tui_start.py",
    "kernel/test_together.py",
    "test_questions.py",
    "test_rules_index.py",
    "test_terminal_pty.py",
    "test_rules_findings.py",
    "test_rules_packed.py",
    "kernel/test_routes_removed.py",
    "test_manpages.py",
)
"""Files that take 15 seconds and more, the longest first. Mostly they wait."""
SPREAD = 0.85
"""Where the last of them stands: one that is begun at the end is waited for by all."""


def places(sizes: Counter[Path]) -> dict[Path, float]:
    """Where each file stands, from 0 to 1: all the time some of LONG are beside others, which work;
    of those the largest come first. `sizes` are their numbers of tests."""
    place = {HERE / name: SPREAD * index / len(LONG) for index, name in enumerate(LONG)}
    others = Counter({path: size for path, size in sizes.items() if path not in place})
    done = 0
    for path, size in others.most_common():
        place[path] = done / others.total()
        done += size
    return place
