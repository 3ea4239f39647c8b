"""Metadata (key 3): brokers, topics, partitions, leaders; makes topics on their first use."""

from __future__ import annotations

from typing import Any

from penstock.devbroker.cluster import NODE_ID, Topic
from penstock.devbroker.codes import Code, RequestRefused

from . import Call, Fields

NO_OPERATIONS = -(2**31)  # authorized operations that nobody asked for


def handle(call: Call) -> Fields:
    host, port = call.server.advertised
    return {
        "brokers": [{"node_id": NODE_ID, "host": host, "port": port, "rack": None}],
        "cluster_id": call.cluster.cluster_id,
        "controller_id": NODE_ID,
        "cluster_authorized_operations": NO_OPERATIONS,
        "topics": topics_of(call),
    }


def topics_of(call: Call) -> list[Fields]:
    asked = call.body.topics
    if asked is None or (call.version == 0 and not asked):
        return [describe(topic) for topic in call.cluster.topics.values()]
    return [find(call, each) for each in asked]


def find(call: Call, asked: Any) -> Fields:
    cluster = call.cluster
    topic_id = getattr(asked, "topic_id", None)
    try:
        try:
            return describe(cluster.topic(asked.name, topic_id))
        except RequestRefused:
            create = getattr(call.body, "allow_auto_topic_creation", True)
            if not asked.name or not create or not cluster.options.flag("auto.create.topics.enable"):
                if asked.name:
                    cluster.check_name(asked.name)
                raise
            return describe(cluster.create_topic(asked.name))
    except RequestRefused as error:
        return refused(asked, error.code)


def refused(asked: Any, code: int) -> Fields:
    name, topic_id = asked.name, getattr(asked, "topic_id", None)
    return {
        # Null names exist from version 12 on, for topics asked for by id.
        "name": name if name or asked.__version__ >= 12 else "",
        "topic_id": topic_id,
        "error_code": code,
        "topic_authorized_operations": NO_OPERATIONS,
    }


def describe(topic: Topic) -> Fields:
    return {
        "error_code": Code.NONE,
        "name": topic.name,
        "topic_id": topic.id,
        "topic_authorized_operations": NO_OPERATIONS,
        "partitions": [
            {
                "error_code": Code.NONE,
                "partition_index": index,
                "leader_id": NODE_ID,
                "leader_epoch": partition.leader_epoch,
                "replica_nodes": (NODE_ID,),
                "isr_nodes": (NODE_ID,),
                "offline_replicas": (),
            }
            for index, partition in enumerate(topic.partitions)
        ],
    }


def refuse(body: Any, code: int) -> Fields:
    return {"error_code": code, "topics": [refused(each, code) for each in body.topics or ()]}
