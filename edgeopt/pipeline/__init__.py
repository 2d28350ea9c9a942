"""One export, stage by stage: plan, program, convert, prove, evaluate, judge, time, write."""
