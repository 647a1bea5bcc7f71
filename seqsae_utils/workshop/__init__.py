"""The workshop: `check` tells whether an answer is right, and if not, what is wrong and why.

``workshop/solutions`` holds the exercises with their answers and typical mistakes;
``python -m seqsae_utils.workshop`` makes the students' notebooks and the slides from them.
"""

from .checking import ARTIFACTS, check
