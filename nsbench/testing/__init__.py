"""For the tests of samplers and other parts: the battery of rules, what watches a step, a toy graph."""

from nsbench.testing.rules import Finding as Finding
from nsbench.testing.rules import Poor as Poor
from nsbench.testing.rules import assert_contract as assert_contract
from nsbench.testing.rules import check_sampler as check_sampler
from nsbench.testing.toy import registered as registered
from nsbench.testing.toy import toy as toy
from nsbench.testing.watch import SyncWatch as SyncWatch
