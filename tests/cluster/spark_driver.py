"""Predicts `rows.parquet` on a local Spark in both ways; run by test_batch_functions.py."""

from __future__ import annotations

import os
import sys

from pyspark.ml.functions import predict_batch_udf
from pyspark.sql import SparkSession
from pyspark.sql.types import StructType

from tabwright.cluster.batch_functions import spark_batch_function, spark_predictor, spark_schema


def main(model: str) -> None:
    os.environ["PYSPARK_PYTHON"] = sys.executable
    spark = SparkSession.builder.master("local[2]").getOrCreate()
    rows = spark.read.parquet("rows.parquet").repartition(2)
    schema = spark_schema(model, keep={"id": "bigint"})
    pandas = rows.mapInPandas(spark_predictor(model, keep=["id"]), schema)
    pandas.toPandas().to_parquet("pandas.parquet")
    predict = predict_batch_udf(
        spark_batch_function(model, ["kind", "size"]),
        return_type=StructType.fromDDL(spark_schema(model)),
        batch_size=16,
    )
    arrays = rows.select("id", predict("kind", "size").alias("found")).select("id", "found.*")
    arrays.toPandas().to_parquet("arrays.parquet")
    spark.stop()


if __name__ == "__main__":
    main(sys.argv[1])
