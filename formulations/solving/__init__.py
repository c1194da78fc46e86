"""What all exact solvers share: results, deadlines, the arithmetic of a proof, HiGHS, the tree."""
