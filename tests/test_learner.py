"""utils.learner: what a step changes."""

from __future__ import annotations

from models.balancer import Balancer
from tests.tiny import hyperparameters, tiny_network
from utils.learner import Learner
from utils.loss import JointLoss
from utils.optim import RunningMean, build_optimizer
from utils.schedule import Schedule


def test_its_parameters_are_those_that_the_optimizer_changes() -> None:
    network = tiny_network()
    network.model[0].requires_grad_(False)
    optimizer = build_optimizer(network, "SGD", 0.01, 0.9, 0.0)
    schedule = Schedule(0.01, 0.1, 2, False, 0, 0.1, 0.8, 0.9, 1)
    criterion = JointLoss.of(network, hyperparameters(), 64)
    learner = Learner(network, RunningMean(network), optimizer, Balancer((1.0, 0.2)), criterion, schedule)
    trained = {id(parameter) for parameter in network.parameters() if parameter.requires_grad}
    assert {id(parameter) for parameter in learner.parameters} == trained
    assert len(learner.parameters) == len({id(parameter) for parameter in learner.parameters})
